"""The command line of `pack`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from pathlib import Path

from mlcls_jax.config import Data
from mlcls_jax.config.options import Parser
from mlcls_jax.data.readers.storage import is_remote
from mlcls_jax.run.input_paths import check_input
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.files import check_new
from mlcls_jax.system.invocation import command

# Fields of `Data` that say how a label CSV is read, and their options in words.
CSV_FIELDS = {
    "filename_column": "column of file names",
    "split_column": "column of train, val and test",
    "group_column": "column of patients, videos or sites",
    "val_values": "values of that column that mean val",
    "test_values": "values of that column that mean test",
    "label_delimiter": "what separates the labels in one column",
    "label_column": "column that lists the labels",
    "confidence_column": "column that says how certain the label of its row is",
    "label_columns": "names or patterns of the class columns",
    "ignore_columns": "names or patterns of columns to leave out",
    "minus_one": "what -1 means: absent or unknown",
    "empty_cells": "what an empty cell means: absent or unknown",
    "class_names": "CSV of two columns: what classes are called in the labels, and their names",
}


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options after checking that they go together."""
    parser = Parser(
        prog=command("pack"),
        description="Packs images and labels into a few large files, for network disks and "
        "buckets.",
        epilog="Give either --csv and --images, or --tfds. Train from the packed data set with "
        "--config.data.csv=OUT, without data.images.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out", required=True, help="new folder, or a new address such as gs://bucket/photos"
    )
    parser.add_argument(
        "--format",
        choices=("tar", "tfrecord", "array_record"),
        default="tar",
        help="format of the large files (default %(default)s, which WebDataset reads as well)",
    )
    parser.add_argument(
        "--shard-mb",
        type=float,
        default=256,
        help="largest size of each file in megabytes (default %(default)s)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="read the header of each image, and write nothing if one is not an image",
    )
    _add_sources(parser)
    options = parser.parse_args(argv)
    has_images = bool(options.images) or Path(options.csv or "-").expanduser().is_dir()
    if bool(options.tfds) == bool(options.csv) or has_images != bool(options.csv):
        parser.error("give either --csv and --images, or --tfds")
    if options.shard_mb <= 0:
        parser.error(f"--shard-mb is {options.shard_mb:g}; it must be above 0")
    return options


def _add_sources(parser: argparse.ArgumentParser) -> None:
    """Adds the options of both sources."""
    csv = parser.add_argument_group("from a label CSV")
    csv.add_argument("--csv", default="", help="label CSV, or a folder of class folders")
    csv.add_argument("--images", default="", help="folder of its images")
    for name, words in CSV_FIELDS.items():
        default = getattr(Data(), name)
        shown = f" (default {default})" if default else ""
        option = f"--{name.replace('_', '-')}"
        choices = Data.__dataclass_fields__[name].metadata.get("choices")
        text = f"{words}{shown}; see data.{name}"
        csv.add_argument(option, default=default, choices=choices, help=text)
    tfds = parser.add_argument_group("from TensorFlow Datasets (TFDS)")
    tfds.add_argument("--tfds", default="", help="name of the data set, such as coco/2017")
    tfds.add_argument("--split", default="train", help="split to pack (default %(default)s)")
    tfds.add_argument(
        "--image-feature",
        default=Data().image_feature,
        help="feature of the images (default %(default)s)",
    )
    tfds.add_argument(
        "--label-feature",
        default=Data().label_feature,
        help="feature of the labels (default %(default)s)",
    )
    tfds.add_argument(
        "--data-dir", default="", help="folder of its data sets (default: that of TFDS)"
    )


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options = parse(argv)
        check_input(options.csv, "CSV file", "check the path")
        check_input(options.images, "folder", "check --images")
        check_input(options.class_names, "file", "check --class-names")
        if not is_remote(options.out):
            check_new(Path(options.out).expanduser())
