"""The command line of `export`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from pathlib import Path

from mlcls_jax.config.options import Parser
from mlcls_jax.options.shared import check_trained
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.files import check_new
from mlcls_jax.system.invocation import command

FORMATS = SAFETENSORS, KERAS, STABLEHLO, ONNX = "safetensors", "keras", "stablehlo", "onnx"


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = Parser(
        prog=command("export"),
        description="Exports a trained model for timm, Keras, plain JAX or onnxruntime.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--format", required=True, choices=FORMATS, help="format to write")
    parser.add_argument("--out", required=True, help="new folder for the files")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    return parser.parse_args(argv)


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options = parse(argv)
        check_trained(options.workdir, options.checkpoint)
        check_new(Path(options.out))
