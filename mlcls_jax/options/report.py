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
COMPARED, COMPARISON = 8, "comparison.html"  # most runs that are compared; the file


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = Parser(
        prog=command("report"),
        description="Write report.html of a run into its workdir and print the diagnosis. "
        "The run may still be training.",
    )
    parser.add_argument("--workdir", help="folder of the run")
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="WORKDIR",
        help="write a page that compares these runs instead; differences are to the first one",
    )
    parser.add_argument("--out", help=f"file of the page that compares runs (default {COMPARISON})")
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
    if options.compare:
        if options.workdir or options.explain or options.images != MOST:
            parser.error("--compare goes with --out only; leave the other options out")
        if not 2 <= len(options.compare) <= COMPARED:
            count = len(options.compare)
            parser.error(f"--compare {count} run{'s' * (count > 1)}: name 2 to {COMPARED}")
    elif options.out or not options.workdir:
        parser.error("--out belongs to --compare" if options.out else "--workdir is missing")
    if options.images < 1:
        parser.error(f"--images {options.images}: it must be at least 1")
    return options


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options = parse(argv)
        for workdir in options.compare or [options.workdir]:
            # A run may be reported before its first checkpoint.
            read_config(open_workdir(workdir))
