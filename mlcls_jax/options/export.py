"""The command line of `export`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from mlcls_jax.config.options import Parser
from mlcls_jax.models.weights.hub import PREFIX, check_hub, hub_name
from mlcls_jax.options.shared import check_trained
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.files import check_new
from mlcls_jax.system.invocation import command

SAFETENSORS, KERAS, STABLEHLO, ONNX = "safetensors", "keras", "stablehlo", "onnx"
SAVED_MODEL, TFLITE, TRITON = "saved_model", "tflite", "triton"
FORMATS = SAFETENSORS, KERAS, STABLEHLO, ONNX, SAVED_MODEL, TFLITE, TRITON
ANY_NETWORK = STABLEHLO, ONNX, TRITON  # the others are for EfficientNets only
INT8 = "int8"
# Packages that a format needs, and how to install them.
PACKAGES = {
    ONNX: (("onnx", "onnxruntime"), "pip install 'mlcls_jax[onnx]'"),
    TRITON: (("onnx", "onnxruntime"), "pip install 'mlcls_jax[onnx]'"),
    SAVED_MODEL: (("tensorflow",), "pip install 'mlcls_jax[tf_data]'"),
    TFLITE: (("tensorflow",), "pip install 'mlcls_jax[tf_data]'"),
}
# The packages of a network of the user.  jax2onnx pins an older Orbax than ours.
CONVERTER = (
    ("onnx", "onnxruntime", "onnx_ir", "jax2onnx"),
    "pip install 'mlcls_jax[onnx]' onnx-ir && pip install --no-deps 'jax2onnx>=0.17.1,<0.18'",
)


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = Parser(
        prog=command("export"),
        description="Exports a trained model for timm, Keras, plain JAX, onnxruntime, TensorFlow "
        "or LiteRT.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    needed = not any(argument.split("=")[0] == "--push" for argument in argv)
    parser.add_argument(
        "--format", default=SAFETENSORS, choices=FORMATS, required=needed, help="format to write"
    )
    parser.add_argument("--out", default="", required=needed, help="new folder for the files")
    parser.add_argument(
        "--push",
        default="",
        metavar="USER/NAME",
        help="upload the model to the Hugging Face Hub, as safetensors that timm and this package "
        "load, with a model card; needs no --format and no --out",
    )
    parser.add_argument(
        "--private", action="store_true", help="with --push: a new repository is private"
    )
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    parser.add_argument(
        "--quantize",
        default="",
        choices=(INT8,),
        help="compute in 8-bit integers, with ranges from validation images; only for onnx",
    )
    options = parser.parse_args(argv)
    if options.private and not options.push:
        parser.error("--private is for --push USER/NAME")
    return options


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options = parse(argv)
        config = check_trained(options.workdir, options.checkpoint)
        if options.out or not options.push:
            check_new(Path(options.out))
        if options.push:
            check_push(options.push, options.format)
        check_format(options.format, options.quantize, config.model.custom)


def check_push(repo: str, form: str) -> None:
    """Checks that a model can be uploaded.

    Args:
        repo: such as "me/birds".
        form: one of FORMATS.

    Raises:
        ValueError: the name is no repository, the format is not the one of the Hub, or the Hub's
            package is missing.
    """
    if hub_name(f"{PREFIX}{repo}").revision:
        raise ValueError(f"--push {repo}: leave out the revision; the upload makes a new one")
    if form != SAFETENSORS:
        raise ValueError(f"--push uploads {SAFETENSORS}, not {form}; leave out --format")
    check_hub(f"{PREFIX}{repo}")


def check_format(form: str, quantize: str, custom: str) -> None:
    """Checks that a format can be written.

    Args:
        form: one of FORMATS.
        quantize: "int8", or "" for float32.
        custom: the field model.custom.

    Raises:
        ValueError: the format is for other networks, has no int8, or needs a missing package.
    """
    if custom and form not in ANY_NETWORK:
        raise ValueError(
            f"{form} is for EfficientNets, and the run has model.custom={custom}; export to "
            f"{' or '.join(ANY_NETWORK)}"
        )
    if quantize and form != ONNX:
        raise ValueError(f"{quantize} is for the format {ONNX}, not for {form}")
    packages, install = CONVERTER if custom and form != STABLEHLO else PACKAGES.get(form, ((), ""))
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(f"the export to {form} needs {' and '.join(missing)}; run: {install}")
