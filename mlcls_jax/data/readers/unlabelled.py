"""Images of which nothing is known: those of a folder, or those that a CSV names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlcls_jax.data.images.decoding import EXTENSIONS
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_cells import read_csv
from mlcls_jax.data.readers.csv_labels import check_folder, make_table


def images_in(folder: Path) -> list[Path]:
    """The images of a folder and of those in it, sorted.

    Raises:
        ValueError: there is none.
    """
    files = (file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS)
    found = sorted(file for file in files if file.is_file())
    if not found:
        raise ValueError(f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))})")
    return found


def folder_table(images: str, classes: Sequence[str]) -> LabelTable:
    """The images of a folder, and of the folders in it, of which nothing is known; ValueError
    where there is none."""
    folder = Path(images).expanduser()
    names = tuple(file.relative_to(folder).as_posix() for file in images_in(folder))
    labels = np.full((len(names), len(classes)), UNKNOWN, np.int8)
    return LabelTable(folder, names, labels, tuple(classes))


def listed_images(csv: str, images: str, filename_column: str) -> tuple[list[str], list[str]]:
    """File names of a CSV, whatever else is in it, and their paths.

    Args:
        csv: with a column of file names.
        images: the folder that they start from; "": the CSV's own.
        filename_column: its header.

    Raises:
        ValueError: no such file, column or folder, or no such image in it.
    """
    folder = Path(images or Path(csv).parent).expanduser()
    check_folder(folder)
    names = read_csv(csv).column(filename_column, "name the column of file names like this")
    table = make_table(names, np.zeros((len(names.rows), 0), np.int8), (), folder)
    if not len(table):
        raise ValueError(f"{csv}: no rows below the header; add one row per image")
    return list(table.filenames), table.paths
