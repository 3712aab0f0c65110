"""The command line of `to-csv`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from pathlib import Path

from mlcls_jax.config import Data
from mlcls_jax.config.loading import load_config
from mlcls_jax.config.options import Parser
from mlcls_jax.run.input_paths import check_data
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.files import check_new
from mlcls_jax.system.invocation import command

# The file to write for each table, by the prefix of its config fields.
PARTS = {"": "labels.csv", "val_": "val.csv", "test_": "test.csv"}


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the remaining arguments, which are config overrides."""
    parser = Parser(
        prog=command("to_csv"),
        description="Writes the labels of any data source (CSV, COCO, VOC, TFDS) as CSVs, to "
        "inspect, correct and train from.",
        epilog="Set the source with fields of the config, such as --config.data.source=coco "
        "--config.data.csv=instances_train2017.json --config.data.images=train2017",
        allow_abbrev=False,
    )
    parser.add_argument("--out", required=True, help="new folder for the CSVs")
    parser.add_argument(
        "--images", default="", help="new folder for the images (default: not copied)"
    )
    parser.add_argument("--config", default="", help="config file (default: default values)")
    return parser.parse_known_args(argv)


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options, overrides = parse(argv)
        check_data(data_of(options, overrides), PARTS, has_options=False)
        for folder in filter(None, (options.out, options.images)):
            check_new(Path(folder))


def data_of(options: argparse.Namespace, overrides: list[str]) -> Data:
    """Returns the data sources that a command line means.

    Args:
        options, overrides: from `parse`.

    Raises:
        ValueError: the config does not exist, a value is wrong, or data.csv is empty.
    """
    data = load_config(options.config, overrides).data
    if not data.csv:
        raise ValueError("config: data.csv is empty; set it to the labels to read")
    return data
