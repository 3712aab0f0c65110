"""Writes the labels of any data source as CSVs, to inspect, correct and train from.

    mlcls-jax to-csv --out coco --config.data.source=coco \\
        --config.data.csv=annotations/instances_train2017.json --config.data.images=train2017 \\
        --config.data.val_csv=annotations/instances_val2017.json --config.data.val_images=val2017

writes coco/labels.csv with one column per class, coco/val.csv and coco/categories.csv, and prints
how to train from them. Images are not copied. If they are inside larger files, such as those of
TFDS, use --images FOLDER to write them as files.
"""

import argparse
import sys
from pathlib import Path

from mlcls_jax.options.to_csv import PARTS, check, data_of, parse

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

import pandas as pd

from mlcls_jax.config import Data
from mlcls_jax.data.images.decoding import image_libraries
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_labels import labels_csv
from mlcls_jax.data.readers.csv_options import GROUP_COLUMN
from mlcls_jax.data.readers.csv_writing import csv_text
from mlcls_jax.data.readers.read_table import read_table
from mlcls_jax.system import command_line
from mlcls_jax.system.files import new_folder, write_text


def read_tables(data: Data) -> dict[str, LabelTable]:
    """Reads the tables of data.csv, data.val_csv and data.test_csv.

    Args:
      data: the sources.

    Returns:
      Tables by the prefix of their config fields ("", "val_", "test_"), all with the classes in
      the order of data.csv.

    Raises:
      ValueError: see `read_table`, or the classes differ.
    """
    tables: dict[str, LabelTable] = {}
    for prefix in PARTS:
        if place := getattr(data, f"{prefix}csv"):
            images = getattr(data, f"{prefix}images") or data.images
            classes = tables[""].classes if tables else None
            table = read_table(data, place, images, classes=classes)
            tables[prefix] = table.with_classes(classes, place, data.csv) if classes else table
    return tables


def write_images(tables: dict[str, LabelTable], folder: Path) -> None:
    """Writes all images unchanged to a new folder.

    Raises:
      ImageError: an image cannot be read.
      ValueError: the folder already exists or cannot be written.
    """
    with new_folder(folder) as partial:
        for table in tables.values():
            for name, path in zip(table.filenames, table.paths, strict=True):
                file = partial / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(read_file(path))


@image_libraries()
def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code.

    Raises:
      ValueError: the config, the labels or an image is wrong; nothing is written then.
    """
    options, overrides = parse(argv)
    data = data_of(options, overrides)
    tables = read_tables(data)
    for table in tables.values():
        for note in table.notes:
            print(note)
    with new_folder(Path(options.out)) as folder:
        if options.images:
            write_images(tables, Path(options.images))
        for prefix, table in tables.items():
            write_text(folder / PARTS[prefix], labels_csv(table))
        categories = pd.DataFrame({"Labels": tables[""].classes})
        write_text(folder / "categories.csv", csv_text(categories))
    for prefix, table in tables.items():
        known = table.labels != UNKNOWN
        print(
            f"{Path(options.out) / PARTS[prefix]}: {len(table)} images, {len(table.classes)} "
            f"classes, {table.positives.sum()} positive labels, {(~known).sum()} unknown"
        )
    print(f"train from them with {' '.join(_fields(data, tables, options))}")
    return 0


def _fields(data: Data, tables: dict[str, LabelTable], options: argparse.Namespace) -> list[str]:
    """The options with which to train from the CSVs."""
    fields = []
    for prefix, table in tables.items():
        folder = options.images or str(table.folder)
        fields.append(f"--config.data.{prefix}csv={Path(options.out) / PARTS[prefix]}")
        if options.images or table.sources is None or data.source == "voc":
            fields.append(f"--config.data.{prefix}images={folder}")
    if tables[""].groups is not None:
        fields.append(f"--config.data.group_column={GROUP_COLUMN}")
    return fields


if __name__ == "__main__":
    command_line.run(main)
