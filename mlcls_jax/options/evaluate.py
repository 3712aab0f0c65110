"""The command line of `evaluate`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from typing import Any

from mlcls_jax.config import Config, Data, Evaluation
from mlcls_jax.config.checks import validate
from mlcls_jax.config.options import Parser, add_accept_changed_data
from mlcls_jax.options.shared import add_on_bad_image, add_tta, check_trained
from mlcls_jax.run.input_paths import check_input
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.invocation import command

METRICS = """metrics:
  mAP    mean over classes of the average precision
  CF1    F1 of the mean per-class precision CP and the mean per-class recall CR
  OF1    F1 of the overall precision OP and the overall recall OR, in which all
         pairs of image and class count the same
  CF1@3, OF1@3
         the same if the 3 most probable classes of each image are predicted
  AUROC  mean over classes of the area under the ROC curve
  The others are in docs/evaluation.md.
"""
RESAMPLES = 1000
AT_RECALL = 0.9
SOURCES = Data.__dataclass_fields__["source"].metadata["choices"]
TUNED_BY = ("threshold_criterion", "threshold_target", "calibration")  # options that tune again


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options after checking that they go together."""
    parser = Parser(
        prog=command("evaluate"),
        description="Evaluates a trained run on one of its splits, or on other images.",
        epilog=METRICS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument(
        "--split", default="", help="split of the run: train, val (default) or test"
    )
    parser.add_argument(
        "--csv",
        default="",
        help="labels of other images, in the same format as data.csv, or file names only",
    )
    parser.add_argument(
        "--images",
        default="",
        help="folder of the images in --csv; without --csv, all its images are predicted, and "
        "there are no metrics",
    )
    parser.add_argument(
        "--source",
        choices=SOURCES,
        help="format of --csv (default: csv if its name ends in .csv, otherwise the run's "
        "data.source)",
    )
    parser.add_argument("--checkpoint", default="best", help="best (default), latest, or a step")
    add_tta(parser)
    add_on_bad_image(parser)
    add_accept_changed_data(parser)
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=RESAMPLES,
        help=f"bootstrap resamples for the intervals of mAP and AUROC (default {RESAMPLES}); "
        "0 for none",
    )
    parser.add_argument(
        "--at-recall",
        type=float,
        default=AT_RECALL,
        help=f"recall at which the precision of each class is reported (default {AT_RECALL})",
    )
    _add_tuning(parser)
    options = parser.parse_args(argv)
    _check_options(parser, options)
    return options


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    """Adds the options of TUNED_BY."""
    tuning = parser.add_argument_group(
        "tuning on val",
        "Each of these options tunes the thresholds of this checkpoint again; settings\n"
        "that are not given keep their values.",
    )
    tuning.add_argument(
        "--threshold-criterion", metavar="CRITERION", help="f1, precision or recall"
    )
    tuning.add_argument(
        "--threshold-target",
        type=float,
        metavar="VALUE",
        help="precision or recall to reach on val, such as 0.95",
    )
    tuning.add_argument(
        "--calibration",
        metavar="KIND",
        help="temperature scaling: none, one (for all classes) or class (one for each class)",
    )


def _check_options(parser: Parser, options: argparse.Namespace) -> None:
    """Checks that the options go together, and sets the default split."""
    if (options.csv or options.images) and options.split:
        parser.error("--split names a split of the run; leave it out with --csv or --images")
    if options.source and not options.csv:
        parser.error("--source is the format of --csv; add --csv, or leave --source out")
    options.split = options.split or "val"
    if options.split not in ("train", "val", "test"):
        parser.error(f"--split {options.split}: it must be train, val or test")
    if options.bootstrap < 0:
        parser.error(f"--bootstrap {options.bootstrap}: it must be at least 0")
    if not 0 < options.at_recall <= 1:
        parser.error(f"--at-recall {options.at_recall:g}: it must be above 0 and at most 1")
    other = options.csv or options.images
    for name in TUNED_BY:
        option = name.replace("_", "-")
        if getattr(options, name) is not None and (other or options.split != "val"):
            parser.error(f"--{option} tunes on val; leave it out, or evaluate --split val")
        if getattr(options, name) is not None and options.tta != "none":
            parser.error(f"--{option} tunes without --tta; leave out one of the two options")


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options = parse(argv)
        validate(Config(evaluation=Evaluation(**tuning_of(options))))
        run = check_trained(options.workdir, options.checkpoint, options.accept_changed_data)
        if not options.csv or source_of(options.csv, options.source, run.data) != "tfds":
            check_input(options.csv, "file", "check --csv")
            check_input(options.images, "folder", "check --images")


def tuning_of(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that the options change, by the names of TUNED_BY."""
    return {name: value for name in TUNED_BY if (value := getattr(options, name)) is not None}


def source_of(csv: str, source: str | None, data: Data) -> str:
    """Returns the format of other labels.

    A list of file names is always a CSV, whatever the format of the run's labels.

    Args:
        csv: label file, or data set.
        source: as data.source; None if it is not given.
        data: of the run.
    """
    return source or ("csv" if csv.lower().endswith(".csv") else data.source)
