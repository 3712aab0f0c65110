"""The command line of `report`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse

from mlcls_jax.config.options import Parser
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.stored_config import read_config
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.invocation import command

MOST = 100  # images of each kind of mistake, in the report of a finished run


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = Parser(
        prog=command("report"),
        description="Write report.html of a run into its workdir and print the diagnosis. "
        "The run may still be training.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument(
        "--explain",
        action="store_true",
        help="add a Grad-CAM map below each image: where the network sees its class",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=MOST,
        help=f"most images of each kind of mistake (default {MOST})",
    )
    options = parser.parse_args(argv)
    if options.images < 1:
        parser.error(f"--images {options.images}: it must be at least 1")
    return options


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        # A run may be reported before its first checkpoint.
        read_config(open_workdir(parse(argv).workdir))
