"""The command line of `embed`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from mlcls_jax.config.options import Parser
from mlcls_jax.options.shared import (
    add_inputs,
    add_on_bad_image,
    check_folder,
    check_has_list,
    check_trained,
)
from mlcls_jax.run.input_paths import check_inputs
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.invocation import command

PARQUET = ".parquet"
ENDINGS = (".npz", PARQUET)  # of --out


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options after checking them."""
    parser = Parser(
        prog=command("embed"),
        description="Writes the features of images: what the backbone of a trained run computes "
        "and its head takes.",
    )
    add_inputs(parser)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="features.npz with the arrays filenames and features, or features.parquet with "
        "columns of these names",
    )
    parser.add_argument("--checkpoint", default="best", help="best (default), latest, or a step")
    add_on_bad_image(parser)
    options = parser.parse_args(argv)
    check_has_list(parser, options)
    if Path(options.out).suffix not in ENDINGS:
        parser.error(f"--out {options.out}: its name must end in {' or '.join(ENDINGS)}")
    return options


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options = parse(argv)
        check_inputs(options.inputs, options.images)
        check_trained(options.workdir, options.checkpoint)
        check_folder("out", options.out)
        if options.out.endswith(PARQUET) and find_spec("pyarrow") is None:
            raise ValueError(
                f"--out {options.out} needs the package pyarrow; install it with "
                "pip install pyarrow, or write features.npz"
            )
