"""The command `mlcls-jax`, which runs all others: mlcls-jax train --config b5 --workdir runs/b5.

`python -m mlcls_jax` is the same, and so is each command by its module: python -m mlcls_jax.train.
The options of a command are in its module, which is imported only when it runs.
"""

import difflib
import os
import runpy
import sys

from mlcls_jax import __version__
from mlcls_jax.system import early_signals, memory_limit
from mlcls_jax.system.invocation import program

USER_ERROR = 2
LONGEST = 60  # characters of a name that an error quotes
COMMANDS = {
    "train": "train on your images, or continue a stopped run",
    "evaluate": "print the metrics of a run next to the base rate",
    "predict": "predict the classes of images",
    "embed": "write the features of images that a run's backbone computes",
    "report": "write report.html of a run and print its diagnosis",
    "serve": "serve a run as a web page and a JSON endpoint",
    "export": "export a run to timm, Keras, StableHLO, ONNX, TensorFlow or LiteRT",
    "tune": "search for better rates, loss and augmentation",
    "lr-find": "suggest learning rates for a phase",
    "benchmark": "measure the speed of your configuration and name the bottleneck",
    "pack": "pack a data set into a few large files",
    "data-worker": "read and decode images for runs on other machines",
    "to-csv": "write the labels of any data source as CSVs",
    "weights": "list the pretrained weights that model.weights accepts",
    "demo": "make the demo's images and labels in data/demo",
}
FIRST_STEPS = """first steps:
  {program} demo
  {program} train --config demo --workdir runs/demo
  {program} predict --workdir runs/demo data/demo/images

{program} COMMAND --help shows the options of a command."""


def main() -> None:
    """Runs the command that the first argument names, and exits with its exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(help_text())
    elif name == "--version":
        print(f"mlcls_jax {__version__}")
    elif name in COMMANDS:
        run(name)
    else:
        sys.exit(refuse(name))


def run(name: str) -> None:
    """Runs a command as `python -m mlcls_jax.<name>` does."""
    early_signals.leave_on_signals()
    sys.argv[1:2] = []
    try:
        runpy.run_module(f"mlcls_jax.{name.replace('-', '_')}", run_name="__main__")
    except Exception as error:  # of the imports
        reason = memory_limit.explain(error)
        if not reason or os.environ.get("MLCLS_JAX_TRACEBACK"):
            raise
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(USER_ERROR)


def help_text() -> str:
    """Returns the list of all commands."""
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return "\n".join(
        (
            f"usage: {program()} COMMAND [options]",
            "",
            "Fine-tunes ImageNet-pretrained EfficientNets for multi-label image classification.",
            "",
            "commands:",
            *lines,
            "",
            FIRST_STEPS.format(program=program()),
        )
    )


def refuse(name: str) -> int:
    """Prints that no command has this name, with the nearest one, and returns the exit code."""
    if not name:
        print(help_text(), file=sys.stderr)
        return USER_ERROR
    given = name.replace("_", "-").lower()
    near = [] if name.startswith("-") else difflib.get_close_matches(given, COMMANDS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    quoted = ascii(name) if len(name) <= LONGEST else f"{name[:LONGEST]!a}…"
    print(
        f"error: {quoted} is not a command; {hint}{program()} --help lists all commands",
        file=sys.stderr,
    )
    return USER_ERROR


if __name__ == "__main__":
    main()
