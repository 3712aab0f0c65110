"""Label CSVs as people have them: `filename` and what is on it -> `LabelTable`.

Every mistake that can be seen without decoding an image is refused here, with the file, the row
and the column: found an hour into a run, or never, it costs more.
"""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_cells import Column, quoted, read_csv

_MARKS = (";", "|", ",")


def delimited_labels(
    column: Column, delimiter: str, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes, and which of them the cells name, as scikit-learn's MultiLabelBinarizer has them.

    Spaces around a label are none of it, and nothing between two delimiters is no label.  An empty
    cell says that none of the classes is there.

    Args:
      column: n cells.
      delimiter: what is between two labels.
      classes: all that there are, in their order; None: those of the column, sorted.

    Returns:
      c classes, and int8 [n, c] of 1 and 0.

    Raises:
      ValueError: one line with file, row and column: a label that is none of `classes`, or two
        that differ in case only; or no label at all.
    """
    names = [
        [label for part in text.split(delimiter) if (label := part.strip())]
        for text in column.distinct
    ]
    used = np.unique(column.codes).tolist()
    found = sorted({label for code in used for label in names[code]})
    if classes is None:
        if not found:
            raise ValueError(f"{column.path}: no label in column {column.name!r}; fill it in")
        _check_case(column, names, found)
        _check_delimiter(column, delimiter, found)
        classes = found
    index = {name: i for i, name in enumerate(classes)}
    if foreign := [label for label in found if label not in index]:
        raise column.error(
            _cell_with(column, names, foreign[0]),
            f"the label {foreign[0]!r} is none of the classes {quoted(classes)}; correct it, or "
            f"data.label_delimiter={delimiter!r}",
        )
    labels = np.zeros((len(names), len(classes)), np.int8)
    for code in used:
        labels[code, [index[label] for label in names[code]]] = 1
    return tuple(classes), labels[column.codes]


def _check_delimiter(column: Column, delimiter: str, found: list[str]) -> None:
    """Where no cell has it, another mark that is in many cells is what was meant."""
    if any(delimiter in text for text in column.distinct):
        return
    for mark in _MARKS:
        if 2 * sum(mark in label for label in found) > len(found):
            raise ValueError(
                f"{column.path}: no cell of column {column.name!r} has {delimiter!r}, but most "
                f"have {mark!r}, such as {found[-1]!r}; set data.label_delimiter={mark!r}"
            )


def _check_case(column: Column, names: list[list[str]], found: list[str]) -> None:
    first: dict[str, str] = {}
    for label in found:
        other = first.setdefault(label.casefold(), label)
        if other != label:
            raise column.error(
                _cell_with(column, names, label),
                f"the labels {other!r} and {label!r} differ in case only; write one of them",
            )


def _cell_with(column: Column, names: list[list[str]], label: str) -> int:
    return next(i for i, code in enumerate(column.codes) if label in names[code])


SPLIT_COLUMN = "split"

_BAD = -2  # only while reading: a cell that is none of 1, 0 and UNKNOWN
_CELL = re.compile(r"(1|0|-1)(?:\.0+)?")
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


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
    """Reads a label CSV and checks it against the folder of images.

    Args:
      csv: a column of file names, one column per class, perhaps a split column. Cells are 1, 0
        (or 1.0, 0.0), and empty or -1 for unknown.  With a `delimiter`, one column of labels.
      images: the folder that the file names are relative to, and that they cannot leave; links
        in it are followed, as its owner has made them.
      categories: optional CSV with a column `Labels` that names the classes in their order.
      filename_column: the header of the column of file names.
      split_column: the header of the column with train, val or test. It may be absent under its
        default name only; "" means that there is none and that every other column is a class.
      delimiter: between the labels of a cell, see `delimited_labels`; "": a column per class.
      label_column: the header of the column of labels; "": the only other one.
      classes: where they are known before; labels in one column rarely name all of them.
      unlabelled: whether a CSV of file names alone will do, with `classes` of which nothing is
        known.
      sources: see LabelTable; with them, nobody looks into the folder.

    Returns:
      A LabelTable in the CSV's row order.

    Raises:
      ValueError: one line that names file, row and column, what is wrong and what to do.
    """
    folder = Path(images).expanduser() if sources is None else images
    if sources is None:
        check_folder(folder)
    cells = read_csv(csv)
    names = cells.column(
        filename_column, "set data.filename_column to the one that holds the file names"
    )
    split = None
    if split_column and (split_column in cells.columns or split_column != SPLIT_COLUMN):
        split = cells.column(split_column, "check data.split_column")
    class_columns = [column for column in cells.columns.values() if column not in (names, split)]
    if not class_columns and not unlabelled:
        raise ValueError(
            f"{cells.path}: no class columns beside {quoted(cells.columns)}; "
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
    """A LabelTable whose file names are good ones and, without `sources`, in the folder.

    Args:
      names: file names, n of them, with the place that an error about each names.
      labels, classes, folder, splits, sources: see LabelTable.

    Raises:
      ValueError: one line that names the file and the place in it.
    """
    table = LabelTable(folder, _filenames(names), labels, classes, splits, sources)
    if sources is None:
        _check_images(names, table.filenames, Path(folder))
    return table


def check_folder(images: str | Path) -> None:
    """ValueError where there is no such folder of images."""
    if not Path(images).is_dir():
        raise ValueError(f"{images}: no such folder of images; check data.images")


def with_categories(table: LabelTable, categories: str | Path | None) -> LabelTable:
    """The table with its classes in the order of a CSV with a column `Labels`; ValueError where
    that names others, see `with_classes`.  None: as it is."""
    if not categories:
        return table
    return table.with_classes(_read_categories(categories), "the labels", str(categories))


def _label_column(columns: list[Column], name: str) -> Column:
    """Of the columns beside file names and splits, the one that labels are in."""
    found = [column for column in columns if column.name == name or not name]
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"{columns[0].path}: which of the columns {quoted(column.name for column in columns)} has "
        f"the labels is not clear from data.label_column={name!r}; set that to its name"
    )


def _read_categories(path: str | Path) -> tuple[str, ...]:
    column = read_csv(path).column("Labels", "name the column of class names 'Labels'")
    names = [text.strip() for text in column.texts]
    if "" in names:
        raise column.error(names.index(""), "no class name; fill it in")
    column.check_unique(names, lambda i: f"the same class {names[i]!r}; remove one")
    _check_classes(column.path, names)
    return tuple(names)


def _check_classes(path: Path, names: Iterable[str]) -> None:
    """Class names become lines of classes.txt, and are shown everywhere."""
    for name in names:
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            raise ValueError(
                f"{path}: the class name {name!r} has a line end or another control character in "
                "it; rename the class"
            )


def _filenames(column: Column) -> tuple[str, ...]:
    """Names with forward slashes and no detours, each once, all inside the folder."""
    texts = column.texts
    names = [posixpath.normpath(text.replace("\\", "/")) for text in texts]
    for i, (text, name) in enumerate(zip(texts, names, strict=True)):
        if not text.strip():
            raise column.error(i, "no file name; name an image or remove the row")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            raise column.error(
                i, f"{text!r} is an absolute path; write it relative to the folder of images"
            )
        if name == ".." or name.startswith("../"):
            raise column.error(
                i, f"{text!r} leaves the folder of images; set data.images to a folder above"
            )
    column.check_unique(
        names, lambda i: f"the same image {names[i]!r}; merge their labels into one row"
    )
    return tuple(names)


def _cell_value(text: str) -> int:
    """1, 0, UNKNOWN for an empty cell or minus one, _BAD for anything else."""
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
        more = f" ({len(bad) - 1} more cells like it)" if len(bad) > 1 else ""
        raise columns[j].error(
            i,
            f"{columns[j].texts[i]!r} is no label{more}; write 1, 0, or nothing or -1 for unknown; "
            "or, if a cell names several labels, set data.label_delimiter to what parts them",
        )
    return labels


def _splits(column: Column) -> tuple[str, ...]:
    splits = column.map(lambda text: _SPLIT_NAMES.get(text.strip().lower(), "")).tolist()
    if "" in splits:
        i = splits.index("")
        raise column.error(i, f"{column.texts[i]!r} is no split; write train, val or test")
    return tuple(splits)


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def _check_images(column: Column, filenames: tuple[str, ...], folder: Path) -> None:
    """One listing per folder instead of one question per image; names must match exactly."""
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
    like = [name for name in sorted(listed[parent]) if _alike(name, base)]
    hint = f" (there is {like[0]!r}, which differs in spelling from {base!r})" if like else ""
    raise ValueError(
        f"{column.path}: {len(missing)} of {len(filenames)} images are not in {folder}, the "
        f"first in {column.where(filenames.index(missing[0]))}: {quoted(missing)}{hint}; "
        "check data.images or remove their rows"
    )


def _alike(name: str, wanted: str) -> bool:
    """Equal but for case, the encoding of accents, or an extension left out."""
    name, wanted = (unicodedata.normalize("NFC", text).casefold() for text in (name, wanted))
    return wanted in (name, os.path.splitext(name)[0])


def labels_csv(table: LabelTable) -> str:
    """A CSV that `read_labels` reads back as this table: unknown is an empty cell.

    Raises:
        ValueError: a class has the name of another column.
    """
    columns = {"filename": list(table.filenames)}
    if table.splits is not None:
        columns[SPLIT_COLUMN] = list(table.splits)
    if taken := sorted({"filename", SPLIT_COLUMN} & set(table.classes)):
        raise ValueError(f"a class is called {taken[0]!r}, as a column of the CSV; rename it")
    cells = np.array(["", "0", "1"], object)[table.labels.astype(int) - UNKNOWN]
    frame = pd.concat([pd.DataFrame(columns), pd.DataFrame(cells, columns=table.classes)], axis=1)
    return frame.to_csv(index=False, lineterminator="\n")
