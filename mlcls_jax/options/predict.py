"""The command line of `predict`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from pathlib import Path

from mlcls_jax.config.options import Parser
from mlcls_jax.options.shared import (
    add_inputs,
    add_on_bad_image,
    add_tta,
    check_folder,
    check_has_list,
    check_trained,
)
from mlcls_jax.run.input_paths import check_inputs
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.files import check_new
from mlcls_jax.system.invocation import command

UNCERTAIN, DIVERSE, DISAGREEMENT = "uncertain", "diverse", "disagreement"  # values of --rank
FILES = "csv", "labels", "label_studio", "fiftyone"  # options that name files to write
MAX_CLASSES = 8  # explained per image


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options after checking them."""
    parser = Parser(
        prog=command("predict"),
        description="Predicts the classes of images with a trained run. A class is predicted "
        "present when its probability reaches its threshold.",
    )
    add_inputs(parser)
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
    check_has_list(parser, options)
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        parser.error(f"--threshold {options.threshold}: it must be from 0 to 1")
    if options.csv and options.csv == options.labels:
        parser.error("--csv and --labels name the same file; choose another for one of them")
    if bool(options.committee) != (options.rank == DISAGREEMENT):
        parser.error("--rank disagreement and --committee go together: name further runs")
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
        "--fiftyone",
        default="",
        metavar="FILE",
        help="write the predicted classes and their probabilities to this labels.json, which "
        "FiftyOne imports",
    )
    parser.add_argument(
        "--rank",
        default="",
        choices=(UNCERTAIN, DIVERSE, DISAGREEMENT),
        help="order all outputs by what to label next: uncertain puts the images first that have "
        "a class nearest its threshold; diverse, of these, the images least like those before "
        "them; disagreement the images on which the runs of --committee differ most",
    )
    parser.add_argument(
        "--committee",
        nargs="+",
        default=[],
        metavar="WORKDIR",
        help="further runs of the same classes for --rank disagreement, such as those of other "
        "folds or seeds",
    )
    parser.add_argument("--json", action="store_true", help="print the predictions as JSON")


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options = parse(argv)
        check_inputs(options.inputs, options.images)
        check_trained(options.workdir, options.checkpoint)
        for workdir in options.committee:
            check_trained(workdir, "best")
        check_new_files(options)


def check_new_files(options: argparse.Namespace) -> None:
    """Raises ValueError if a file or folder that the options name cannot be written."""
    for name in FILES:
        check_folder(name.replace("_", "-"), getattr(options, name))
    if options.explain:
        check_new(Path(options.explain))
