"""Images without labels: all images in a folder, or those that a CSV lists."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from mlcls_jax.data.images.extensions import EXTENSIONS
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.file_names import check_folder, make_table
from mlcls_jax.data.readers.listing import is_hidden, names_below
from mlcls_jax.system.remote import is_remote


def images_in(folder: Path) -> list[Path]:
    """Returns the images in a folder and its subfolders, sorted; hidden files are left out.

    Raises:
      ValueError: there are none.
    """
    files = (file for file in folder.rglob("*") if is_image(file.name))
    files = (file for file in files if not is_hidden(file.relative_to(folder).as_posix()))
    found = sorted(file for file in files if file.is_file())
    if not found:
        raise _no_images(folder)
    return found


def image_names(folder: str | Path) -> list[str]:
    """Returns the names of the images in a folder and its subfolders, relative to it and sorted.

    Args:
      folder: a path or an address.

    Raises:
      ValueError: there are none.
      OSError: the bucket cannot be read.
    """
    if not is_remote(folder):
        return [file.relative_to(folder).as_posix() for file in images_in(Path(folder))]
    names = sorted(name for name in names_below(str(folder)) if is_image(name))
    if not names:
        raise _no_images(folder)
    return names


def is_image(name: str) -> bool:
    """Returns whether a file name has the ending of an image."""
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def _no_images(folder: str | Path) -> ValueError:
    return ValueError(
        f"{folder} contains no images ({', '.join(sorted(EXTENSIONS))}); choose another folder"
    )


def folder_table(images: str, classes: Sequence[str]) -> LabelTable:
    """Returns the images in a folder and its subfolders as a table with unknown labels.

    Args:
      images: the folder.
      classes: class names of the table.

    Raises:
      ValueError: there are no images.
    """
    folder = images if is_remote(images) else Path(images).expanduser()
    names = tuple(image_names(folder))
    labels = np.full((len(names), len(classes)), UNKNOWN, np.int8)
    return LabelTable(folder, names, labels, tuple(classes))


def listed_images(csv: str, images: str, filename_column: str) -> tuple[list[str], list[str]]:
    """Returns the file names in a CSV, and their paths; all other columns are ignored.

    Args:
      csv: a CSV with a column of file names.
      images: the folder that the file names are relative to; "": the folder of the CSV.
      filename_column: the header of that column.

    Raises:
      ValueError: the file, the column, the folder or an image does not exist.
    """
    folder = images or (csv.rpartition("/")[0] if is_remote(csv) else Path(csv).parent)
    folder = folder if is_remote(folder) else Path(folder).expanduser()
    check_folder(folder)
    advice = f"rename the column of file names to {filename_column!r}"
    from mlcls_jax.data.readers.csv_files import read_csv_at  # imported late: it imports pandas

    names = read_csv_at(csv, filename_column).column(filename_column, advice)
    table = make_table(names, np.zeros((len(names.rows), 0), np.int8), (), folder)
    if not len(table):
        raise ValueError(f"{csv}: no rows below the header; add one row per image")
    return list(table.filenames), table.paths
