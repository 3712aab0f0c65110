"""Reads label CSVs into a LabelTable: one column of file names, the others hold the labels.

Every mistake that can be found without decoding an image is an error here, with file, row and
column, so that it does not stop a run an hour later.
"""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlcls_jax.config import Data
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_cells import Column, quoted
from mlcls_jax.data.readers.csv_files import read_csv_at
from mlcls_jax.data.readers.storage import file_sizes
from mlcls_jax.system.remote import is_remote

SPLIT_COLUMN = Data().split_column

_MARKS = (";", "|", ",")  # delimiters to suggest
_BAD = -2  # used only while reading: the cell is not 1, 0 or UNKNOWN
_CELL = re.compile(r"(1|0|-1)(?:\.0+)?")
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def delimited_labels(
    column: Column, delimiter: str, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Splits cells that list several labels, as scikit-learn's MultiLabelBinarizer does.

    Spaces around a label are ignored, and so are empty labels between two delimiters. An empty
    cell means that every class is absent.

    Args:
      column: n cells.
      delimiter: the separator between two labels.
      classes: all class names, in order; None: the labels found in the column, sorted.

    Returns:
      The c class names, and labels: int8 [n, c] of 1 and 0.

    Raises:
      ValueError: a label is not one of `classes`, two labels differ only in case, or the column
        has no labels. The message is one line with file, row and column.
    """
    names = [
        [label for part in text.split(delimiter) if (label := part.strip())]
        for text in column.distinct
    ]
    used = np.unique(column.codes).tolist()
    found = sorted({label for code in used for label in names[code]})
    if classes is None:
        if not found:
            raise ValueError(
                f"{column.path}: column {column.name!r} has no labels; fill it in, or set "
                "data.label_column to another column"
            )
        _check_case(column, names, found)
        _check_delimiter(column, delimiter, found)
        classes = found
    index = {name: i for i, name in enumerate(classes)}
    if foreign := [label for label in found if label not in index]:
        raise column.error(
            _cell_with(column, names, foreign[0]),
            f"the label {foreign[0]!r} is not one of the classes {quoted(classes)}; correct it, or "
            f"correct data.label_delimiter={delimiter!r}",
        )
    labels = np.zeros((len(names), len(classes)), np.int8)
    for code in used:
        labels[code, [index[label] for label in names[code]]] = 1
    return tuple(classes), labels[column.codes]


def _check_delimiter(column: Column, delimiter: str, found: list[str]) -> None:
    """Suggests another delimiter if no cell contains the given one but most contain the other."""
    if any(delimiter in text for text in column.distinct):
        return
    for mark in _MARKS:
        if 2 * sum(mark in label for label in found) > len(found):
            raise ValueError(
                f"{column.path}: no cell of column {column.name!r} contains {delimiter!r}, but "
                f"most contain {mark!r}, such as {found[-1]!r}; set data.label_delimiter={mark!r}"
            )


def _check_case(column: Column, names: list[list[str]], found: list[str]) -> None:
    first: dict[str, str] = {}
    for label in found:
        other = first.setdefault(label.casefold(), label)
        if other != label:
            raise column.error(
                _cell_with(column, names, label),
                f"the labels {other!r} and {label!r} differ only in case; use one spelling",
            )


def _cell_with(column: Column, names: list[list[str]], label: str) -> int:
    return next(i for i, code in enumerate(column.codes) if label in names[code])


def read_labels(
    csv: str | Path,
    images: str | Path,
    *,
    categories: str | Path | None = None,
    filename_column: str = "filename",
    split_column: str = SPLIT_COLUMN,
    delimiter: str = "",
    label_column: str = "",
    classes: Sequence[str] | None = None,
    unlabelled: bool = False,
    sources: Mapping[str, str] | None = None,
) -> LabelTable:
    """Reads a label CSV and checks that its images exist.

    Args:
      csv: a column of file names, one column per class, and optionally a split column. Cells are
        1 or 0 (or 1.0, 0.0); an empty cell or -1 is unknown. With a `delimiter`, one column lists
        the labels instead.
      images: the image folder. File names are relative to it and must not point outside it;
        symbolic links in it are followed.
      categories: optional CSV with a column `Labels` that names the classes in order.
      filename_column: the header of the column of file names.
      split_column: the header of the column of train, val and test. The column may be missing only
        if this is the default. "" means that no column holds splits, so every other column is a
        class.
      delimiter: the separator of labels in a cell (see `delimited_labels`); "": one column per
        class.
      label_column: the header of the column of labels; "": the only remaining column.
      classes: the class names, if they are known already; needed if the column of labels may not
        mention all of them.
      unlabelled: whether a CSV with file names only is accepted; all labels of `classes` are then
        unknown.
      sources: see LabelTable; with them, the image folder is not checked.

    Returns:
      A LabelTable in the order of the CSV's rows.

    Raises:
      ValueError: one line with file, row and column, what is wrong and what to do.
    """
    folder = images if sources is not None or is_remote(images) else Path(images).expanduser()
    if sources is None:
        check_folder(folder)
    cells = read_csv_at(csv)
    names = cells.column(filename_column, "set data.filename_column to the column of file names")
    split = None
    if split_column and (split_column in cells.columns or split_column != SPLIT_COLUMN):
        split = cells.column(split_column, "check data.split_column")
    class_columns = [column for column in cells.columns.values() if column not in (names, split)]
    if not class_columns and not unlabelled:
        raise ValueError(
            f"{cells.path}: no class columns, only {quoted(cells.columns)}; "
            "add one column of 0 and 1 per class"
        )
    _check_classes(cells.path, [column.name for column in class_columns])
    if not len(cells):
        raise ValueError(f"{cells.path}: no rows below the header; add one row per image")
    order = _read_categories(categories) if categories else None
    if not class_columns:
        found = tuple(order or classes or ())
        labels = np.full((len(cells), len(found)), UNKNOWN, np.int8)
    elif delimiter:
        column = _label_column(class_columns, label_column)
        found, labels = delimited_labels(column, delimiter, order or classes)
    else:
        found = tuple(column.name for column in class_columns)
        labels = _labels(class_columns)
    splits = None if split is None else _splits(split)
    table = make_table(names, labels, found, folder, splits=splits, sources=sources)
    return table.with_classes(order, str(cells.path), str(categories)) if order else table


def make_table(
    names: Column,
    labels: np.ndarray,
    classes: tuple[str, ...],
    folder: str | Path,
    *,
    splits: tuple[str, ...] | None = None,
    sources: Mapping[str, str] | None = None,
) -> LabelTable:
    """Returns a LabelTable after checking its file names.

    Args:
      names: n file names, with their places in the label file for error messages.
      labels, classes, folder, splits, sources: see LabelTable. Without `sources`, every image must
        exist in `folder`.

    Raises:
      ValueError: a file name is empty, absolute, outside the folder, repeated or missing. The
        message is one line with the file and the place in it.
    """
    table = LabelTable(folder, _filenames(names), labels, classes, splits, sources)
    if sources is None:
        _check_images(names, table.filenames, folder)
    return table


def check_folder(images: str | Path) -> None:
    """Raises a ValueError if the image folder does not exist; one in a bucket is listed later."""
    if not is_remote(images) and not Path(images).is_dir():
        raise ValueError(f"{images}: no such image folder; check data.images")


def with_categories(table: LabelTable, categories: str | Path | None) -> LabelTable:
    """Returns the table with its classes in the order of a categories CSV.

    Args:
      table: the table to reorder.
      categories: a CSV with a column `Labels`; empty or None returns the table unchanged.

    Raises:
      ValueError: the CSV names other classes; see `LabelTable.with_classes`.
    """
    if not categories:
        return table
    return table.with_classes(_read_categories(categories), "the labels", str(categories))


def _label_column(columns: list[Column], name: str) -> Column:
    """The column that holds the labels, among those that are not file names or splits."""
    found = [column for column in columns if column.name == name or not name]
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"{columns[0].path}: cannot tell which of the columns "
        f"{quoted(column.name for column in columns)} holds the labels from "
        f"data.label_column={name!r}; set it to the name of one of them"
    )


def _read_categories(path: str | Path) -> tuple[str, ...]:
    column = read_csv_at(path).column("Labels", "name the column of class names 'Labels'")
    names = [text.strip() for text in column.texts]
    if "" in names:
        raise column.error(names.index(""), "the class name is empty; fill it in")
    column.check_unique(names, lambda i: f"both name the class {names[i]!r}; remove one")
    _check_classes(column.path, names)
    return tuple(names)


def _check_classes(path: str | Path, names: Iterable[str]) -> None:
    """Refuses control characters: class names are lines of classes.txt and are printed."""
    for name in names:
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            raise ValueError(
                f"{path}: the class name {name!r} contains a line break or another control "
                "character; rename the class"
            )


def _filenames(column: Column) -> tuple[str, ...]:
    """Normalised file names with forward slashes; refuses repeated ones and paths outside."""
    texts = column.texts
    names = [posixpath.normpath(text.replace("\\", "/")) for text in texts]
    for i, (text, name) in enumerate(zip(texts, names, strict=True)):
        if not text.strip():
            raise column.error(i, "the file name is empty; name an image or remove the row")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            raise column.error(
                i, f"{text!r} is an absolute path; write it relative to the image folder"
            )
        if name == ".." or name.startswith("../"):
            raise column.error(
                i, f"{text!r} is outside the image folder; set data.images to a parent folder"
            )
    column.check_unique(
        names, lambda i: f"both name the image {names[i]!r}; merge their labels into one row"
    )
    return tuple(names)


def _cell_value(text: str) -> int:
    """1, 0, UNKNOWN for an empty cell or -1, _BAD for anything else."""
    text = text.strip().replace("\N{MINUS SIGN}", "-")
    if not text:
        return UNKNOWN
    match = _CELL.fullmatch(text)
    return int(match[1]) if match else _BAD


def _labels(columns: list[Column]) -> np.ndarray:
    values = [column.map(_cell_value).astype(np.int8) for column in columns]
    labels = np.stack(values, axis=1)
    bad = np.argwhere(labels == _BAD)
    if len(bad):
        i, j = bad[0]
        others = f" ({len(bad) - 1} more such cells)" if len(bad) > 1 else ""
        raise columns[j].error(
            i,
            f"{columns[j].texts[i]!r} is not a label{others}; write 1, 0, or an empty cell or -1 "
            "for unknown; if a cell lists several labels, set data.label_delimiter to their "
            "separator",
        )
    return labels


def _splits(column: Column) -> tuple[str, ...]:
    splits = column.map(lambda text: _SPLIT_NAMES.get(text.strip().lower(), "")).tolist()
    if "" in splits:
        i = splits.index("")
        raise column.error(i, f"{column.texts[i]!r} is not a split; write train, val or test")
    return tuple(splits)


def _files_in(folder: str) -> set[str]:
    if is_remote(folder):
        return set(file_sizes(folder))
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def _check_images(column: Column, filenames: tuple[str, ...], folder: str | Path) -> None:
    """Refuses missing images; lists each folder once instead of looking for every file."""
    listed: dict[str, set[str]] = {}
    missing = []
    for name in filenames:
        parent, _, base = name.rpartition("/")
        if parent not in listed:
            listed[parent] = _files_in(os.path.join(folder, parent))
        if base not in listed[parent]:
            missing.append(name)
    if not missing:
        return
    parent, _, base = missing[0].rpartition("/")
    similar = [name for name in sorted(listed[parent]) if _alike(name, base)]
    hint = f" ({similar[0]!r} exists, spelled differently from {base!r})" if similar else ""
    raise ValueError(
        f"{column.path}: {len(missing)} of {len(filenames)} images are not in {folder}, the "
        f"first in {column.where(filenames.index(missing[0]))}: {quoted(missing)}{hint}; "
        "check data.images, or remove these rows"
    )


def _alike(name: str, searched: str) -> bool:
    """Whether names differ only in case, the encoding of accents, or a missing extension."""
    name, searched = (unicodedata.normalize("NFC", text).casefold() for text in (name, searched))
    return searched in (name, os.path.splitext(name)[0])


def labels_csv(table: LabelTable) -> str:
    """Returns the text of a CSV that `read_labels` reads back as this table.

    Unknown labels are empty cells.

    Raises:
      ValueError: a class is called like the column of file names or splits.
    """
    columns = {"filename": list(table.filenames)}
    if table.splits is not None:
        columns[SPLIT_COLUMN] = list(table.splits)
    if taken := sorted({"filename", SPLIT_COLUMN} & set(table.classes)):
        raise ValueError(
            f"the class {taken[0]!r} has the name of another column of the CSV; rename the class"
        )
    cells = np.array(["", "0", "1"], object)[table.labels.astype(int) - UNKNOWN]
    frame = pd.concat([pd.DataFrame(columns), pd.DataFrame(cells, columns=table.classes)], axis=1)
    return frame.to_csv(index=False, lineterminator="\n")
