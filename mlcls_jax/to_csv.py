"""Labels from any source as CSVs to look at, to correct and to train from.

    python -m mlcls_jax.to_csv --out coco --config.data.source=coco \\
        --config.data.csv=annotations/instances_train2017.json --config.data.images=train2017 \\
        --config.data.val_csv=annotations/instances_val2017.json --config.data.val_images=val2017

writes coco/labels.csv, with one column per class, coco/val.csv and coco/categories.csv, and prints
how to train from them.  Images stay where they are, unless they are inside larger files, as those
of TFDS: --images FOLDER writes them out.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from mlcls_jax.cli import INTERRUPTED, USER_ERROR
from mlcls_jax.config import Data
from mlcls_jax.config.loading import load_config
from mlcls_jax.data.images.decoding import read_file
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_labels import labels_csv
from mlcls_jax.data.readers.read_table import has_folder, read_table
from mlcls_jax.system.files import new_folder, write_text

DEFAULT = Path(__file__).parents[1] / "configs" / "default.py"
PARTS = {"": "labels.csv", "val_": "val.csv", "test_": "test.csv"}


def read_tables(data: Data) -> dict[str, LabelTable]:
    """Tables by the prefix of their fields; the others' classes in the order of the first's."""
    tables: dict[str, LabelTable] = {}
    for prefix in PARTS:
        if place := getattr(data, f"{prefix}csv"):
            images = getattr(data, f"{prefix}images") or data.images
            classes = tables[""].classes if tables else None
            table = read_table(data, place, images, classes=classes)
            tables[prefix] = table.with_classes(classes, place, data.csv) if classes else table
    return tables


def write_images(tables: dict[str, LabelTable], folder: Path) -> None:
    """Writes all images, as they are; ImageError where one cannot be read."""
    with new_folder(folder) as partial:
        for table in tables.values():
            for name, path in zip(table.filenames, table.paths, strict=True):
                file = partial / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(read_file(path))


def main(arguments: list[str] | None = None) -> int:
    options, overrides = _parse(arguments)
    try:
        data = load_config(options.config, overrides).data
        if not data.csv:
            raise ValueError("config: data.csv is empty; name what to read")
        tables = read_tables(data)
        with new_folder(Path(options.out)) as folder:
            if options.images:
                write_images(tables, Path(options.images))
            for prefix, table in tables.items():
                write_text(folder / PARTS[prefix], labels_csv(table))
            categories = pd.DataFrame({"Labels": tables[""].classes})
            write_text(folder / "categories.csv", categories.to_csv(index=False))
    except (ValueError, OSError) as error:
        print(f"to_csv: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"to_csv: stopped; {options.out} is not there", file=sys.stderr)
        return INTERRUPTED
    for prefix, table in tables.items():
        known = table.labels != UNKNOWN
        print(
            f"{Path(options.out) / PARTS[prefix]}: {len(table)} images, {len(table.classes)} "
            f"classes, {table.positives.sum()} positives, {(~known).sum()} unknown"
        )
    print(f"train from them with {' '.join(_fields(data, tables, options))}")
    return 0


def _fields(data: Data, tables: dict[str, LabelTable], options: argparse.Namespace) -> list[str]:
    """The options of a training run on what was written."""
    fields = []
    for prefix, table in tables.items():
        folder = options.images or str(table.folder)
        fields.append(f"--config.data.{prefix}csv={Path(options.out) / PARTS[prefix]}")
        if options.images or data.source == "voc" or has_folder(data, data.csv):
            fields.append(f"--config.data.{prefix}images={folder}")
    return fields


def _parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description="Writes the labels of any data.source as CSVs.",
        epilog="Fields of data, such as data.source, are given as --config.data.source=coco.",
    )
    parser.add_argument("--out", required=True, help="new folder for the CSVs")
    parser.add_argument("--images", default="", help="new folder to write the images to, too")
    parser.add_argument("--config", default=str(DEFAULT), help="config file (default: default.py)")
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
