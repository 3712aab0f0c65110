"""The command line of `predict`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mlcls_jax.config.options import Parser
from mlcls_jax.options.shared import add_on_bad_image, add_tta, check_folder, check_trained
from mlcls_jax.run.input_paths import check_input
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.files import check_new
from mlcls_jax.system.invocation import command
from mlcls_jax.system.remote import exists, is_remote

UNCERTAIN = "uncertain"  # a value of --rank
MAX_CLASSES = 8  # explained per image


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options after checking them."""
    parser = Parser(
        prog=command("predict"),
        description="Predicts the classes of images with a trained run. A class is predicted "
        "present when its probability reaches its threshold.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE_OR_FOLDER",
        help="images and folders of images, or one CSV with a column of file names",
    )
    parser.add_argument(
        "--images", default="", help="folder of the images in the CSV (default: the CSV's folder)"
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest, or a step")
    add_tta(parser)
    add_on_bad_image(parser)
    parser.add_argument(
        "--threshold",
        type=float,
        help="one threshold for all classes, instead of the tuned thresholds",
    )
    _add_outputs(parser)
    options = parser.parse_args(argv)
    if options.images and not is_list(options.inputs):
        parser.error("--images is only for a single CSV of file names; leave it out")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        parser.error(f"--threshold {options.threshold}: it must be from 0 to 1")
    if options.csv and options.csv == options.labels:
        parser.error("--csv and --labels name the same file; choose another for one of them")
    return options


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where the predictions go."""
    parser.add_argument(
        "--csv",
        default="",
        metavar="FILE",
        help="write the probabilities to this CSV: filename and one column per class",
    )
    parser.add_argument(
        "--labels",
        default="",
        metavar="FILE",
        help="write 1 for each predicted class and 0 for the others to this CSV, in the format of "
        "data.csv",
    )
    parser.add_argument(
        "--explain",
        default="",
        metavar="FOLDER",
        help="write a Grad-CAM map for each predicted class of each image to this new folder (at "
        f"most {MAX_CLASSES} per image)",
    )
    parser.add_argument(
        "--label-studio",
        default="",
        metavar="FILE",
        help="write tasks for Label Studio to this JSON file, with the predicted classes as "
        "pre-annotations",
    )
    parser.add_argument(
        "--rank",
        default="",
        choices=(UNCERTAIN,),
        help="order all outputs by what to label next: uncertain puts the images first that have "
        "a class nearest its threshold",
    )
    parser.add_argument("--json", action="store_true", help="print the predictions as JSON")


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options = parse(argv)
        if is_list(options.inputs):
            check_input(options.inputs[0], "CSV file", "check the path")
            check_input(options.images, "folder", "check --images")
        else:
            check_images(options.inputs)
        check_trained(options.workdir, options.checkpoint)
        check_new_files(options)


def is_list(inputs: Sequence[str]) -> bool:
    """Returns whether the inputs are one CSV of file names."""
    return len(inputs) == 1 and inputs[0].lower().endswith(".csv")


def check_images(inputs: Sequence[str]) -> None:
    """Raises ValueError if an image or folder does not exist, or is on the web."""
    for given in inputs:
        path = Path(given)
        if given.lower().startswith(("http://", "https://")):
            raise ValueError(
                f"{given}: predict takes files and folders, not addresses of the web; download "
                "the image"
            )
        if not (exists(given) if is_remote(given) else path.is_dir() or path.is_file()):
            raise ValueError(f"{given}: no such file or folder; check the path")


def check_new_files(options: argparse.Namespace) -> None:
    """Raises ValueError if a file or folder that the options name cannot be written."""
    for name in ("csv", "labels", "label_studio"):
        check_folder(name.replace("_", "-"), getattr(options, name))
    if options.explain:
        check_new(Path(options.explain))
