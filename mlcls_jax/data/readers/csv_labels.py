"""Reads label CSVs into a LabelTable: one column of file names, the others hold the labels.

What can mean only one thing is read, and the notes of the table say how it was understood. Every
mistake that can be found without decoding an image is an error here, with file, row and column, so
that it does not stop a run an hour later.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlcls_jax.data.groups import group_counts
from mlcls_jax.data.images.extensions import EXTENSIONS
from mlcls_jax.data.label_table import UNKNOWN, LabelTable, as_labels
from mlcls_jax.data.readers.cell_values import is_nothing
from mlcls_jax.data.readers.cells import Column, CsvCells
from mlcls_jax.data.readers.csv_columns import (
    check_are_classes,
    check_soft,
    class_columns,
    label_column,
)
from mlcls_jax.data.readers.csv_files import read_csv_at
from mlcls_jax.data.readers.csv_options import GROUP_COLUMN, SPLIT_COLUMN, CsvOptions
from mlcls_jax.data.readers.csv_rows import Join, merged_rows
from mlcls_jax.data.readers.csv_values import (
    check_no_splits,
    label_values,
    soft_columns,
    split_values,
)
from mlcls_jax.data.readers.csv_writing import csv_text
from mlcls_jax.data.readers.file_names import (
    check_folder,
    located_names,
    missing_error,
    relative_names,
)
from mlcls_jax.data.readers.listed_labels import listed_labels, lists_labels
from mlcls_jax.system.console import quoted
from mlcls_jax.system.remote import is_remote

_WHOLE = re.compile(r"(\d+)\.0+")  # a number of a group that a program has made a float


def read_labels(
    csv: str | Path,
    images: str | Path,
    *,
    categories: str | Path | None = None,
    classes: Sequence[str] | None = None,
    unlabelled: bool = False,
    sources: Mapping[str, str] | None = None,
    **options: Any,
) -> LabelTable:
    """Reads a label CSV and checks that its images exist.

    Args:
      csv: a column of file names, one column per class, and optionally a split column. Cells are
        1 or 0 (or 1.0, True, yes and the like); an empty cell or -1 is unknown. With a `delimiter`,
        one column lists the labels instead.
      images: the image folder. File names are relative to it and must not point outside it;
        symbolic links in it are followed.
      categories: optional CSV with a column `Labels` that names the classes in order.
      classes: the class names, if they are known already; needed if the column of labels may not
        mention all of them.
      unlabelled: whether a CSV with file names only is accepted; all labels of `classes` are then
        unknown.
      sources: see LabelTable; with them, the image folder is not checked.
      options: fields of CsvOptions.

    Returns:
      A LabelTable in the order of the CSV's rows.

    Raises:
      ValueError: one line with file, row and column, what is wrong and what to do.
    """
    choice = CsvOptions(**options)
    folder = images if sources is not None or is_remote(images) else Path(images).expanduser()
    if sources is None:
        check_folder(folder)
    cells = read_csv_at(csv, choice.filename_column, named_only=bool(choice.label_column))
    return table_of(cells, folder, choice, categories, classes, unlabelled, sources)


def table_of(
    cells: CsvCells,
    folder: str | Path,
    choice: CsvOptions,
    categories: str | Path | None,
    classes: Sequence[str] | None,
    unlabelled: bool,
    sources: Mapping[str, str] | None,
) -> LabelTable:
    """Returns the labels of cells that are read already; see `read_labels`."""
    names, split = _named_columns(cells, choice)
    groups = _groups(cells, choice, unlabelled)
    order = _read_categories(categories) if categories else None
    known = order or classes
    found, values, notes, join = _labels(cells, choice, known, unlabelled)
    splits = None
    if split is not None:
        splits, split_notes = split_values(
            split, _values(choice.val_values), _values(choice.test_values)
        )
        notes += split_notes
    if groups is not None:
        notes += (f"column {choice.group_column!r}: {group_counts(groups)}",)
    notes = cells.notes + notes
    table = LabelTable(folder, (), values, found, splits, sources, notes, groups=groups)
    table = _with_images(names, table, choice.max_missing, join)
    return table.with_classes(order, str(cells.path), str(categories)) if order else table


def _named_columns(cells: CsvCells, choice: CsvOptions) -> tuple[Column, Column | None]:
    """The columns of file names and of splits."""
    if images := [name for name in cells.columns if Path(name).suffix.lower() in EXTENSIONS]:
        raise ValueError(
            f"{cells.path}: row 1 has {images[0]!r}, the name of an image, in place of a header; "
            "write a header above it, such as filename,cat,dog; if each column is an image, "
            "exchange rows and columns"
        )
    advice = "set data.filename_column to the column of file names"
    if likely := [column.name for column in cells.columns.values() if _holds_images(column)]:
        advice = f"set data.filename_column, such as {likely[0]!r}"
    names, name = cells.column(choice.filename_column, advice), choice.split_column
    is_needed = name != SPLIT_COLUMN or choice.val_values or choice.test_values
    if name and (name in cells.columns or is_needed):
        return names, cells.column(name, "check data.split_column")
    return names, None


def _groups(cells: CsvCells, choice: CsvOptions, unlabelled: bool) -> tuple[str, ...] | None:
    """The group of each row; None without a column, which images to predict need not have."""
    name = choice.group_column
    if not name or (unlabelled and name not in cells.columns):
        return None
    column = cells.column(name, "check data.group_column")
    return tuple(column.map(_group).tolist())


def _group(text: str) -> str:
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    return "" if is_nothing(text) else whole[1] if whole else text


def _holds_images(column: Column) -> bool:
    """Whether the first cells of a column are names of image files."""
    texts = [column.distinct[code] for code in column.codes[:10]]
    return bool(texts) and all(Path(text.strip()).suffix.lower() in EXTENSIONS for text in texts)


def _values(text: str) -> list[str]:
    return [value.strip() for value in text.split(",") if value.strip()]


def _labels(
    cells: CsvCells, choice: CsvOptions, known: Sequence[str] | None, unlabelled: bool
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...], Join]:
    """Class names; labels, as in `as_labels`; how they were understood; which rows are joined."""
    others = {choice.filename_column, choice.split_column, choice.group_column}
    columns = class_columns(
        cells,
        others,
        label_columns=choice.label_columns,
        ignore_columns=choice.ignore_columns,
        known=known or (),
    )
    if not columns and not unlabelled:
        raise ValueError(
            f"{cells.path}: no class columns, only {quoted(cells.columns)}; "
            "add one column of 0 and 1 per class"
        )
    check_classes(cells.path, [column.name for column in columns])
    if not len(cells):
        raise ValueError(f"{cells.path}: no rows below the header; add one row per image")
    if not columns:
        nothing = np.full((len(cells), len(known or ())), UNKNOWN, np.int8)
        return tuple(known or ()), nothing, (), "none"
    join: Join = "none"
    if choice.delimiter or choice.label_column or lists_labels(columns):
        column, all_columns = label_column(columns, choice.label_column), columns
        found, labels, notes, join, columns = listed_labels(
            cells,
            column,
            columns,
            known,
            names=cells.columns[choice.filename_column],
            delimiter=choice.delimiter,
            confidence=choice.confidence_column,
            minus_one=choice.minus_one,
            empty_cells=choice.empty_cells,
        )
        if known is None and choice.split_column:
            check_no_splits(other for other in all_columns if other not in columns)
        check_classes(cells.path, found)
    else:
        labels, notes = label_values(columns, choice.minus_one, choice.empty_cells)
        found = tuple(column.name for column in columns)
        if not choice.label_columns:
            check_are_classes(columns, known or ())
            soft = [name for name in soft_columns(columns) if name not in (known or ())]
            check_soft(columns, soft) if soft else None
    unused = set(cells.columns) - others - {column.name for column in columns}
    if unused:
        unused_names = quoted(name for name in cells.columns if name in unused)
        notes += (f"columns that are not used: {unused_names}",)
    return found, labels, notes, join


def _with_images(column: Column, table: LabelTable, max_missing: float, join: Join) -> LabelTable:
    """The table with the names of its images, one row each, and with its notes in one line.

    Args:
      column: the file names as written.
      table: the labels of all rows, as in `as_labels`, and how they were understood; without file
        names.
      max_missing: see CsvOptions.
      join: which rows of an image are joined.
    """
    sources = table.sources
    names, name_notes = relative_names(column, table.folder, sources or ())
    names, missing, found_notes = located_names(column, names, table.folder, sources)
    notes = table.notes + name_notes + found_notes
    if missing and sources is None:
        gone = list(dict.fromkeys(names[i] for i in missing))
        count = len(set(names))
        if len(gone) > max_missing * count or len(gone) == count:
            skip = "skip them with data.on_bad_image='skip' and data.max_bad_fraction"
            if max_missing:
                skip = f"raise data.max_bad_fraction, which is {max_missing:g}"
            advice = f"check data.images, remove these rows, or {skip}"
            raise missing_error(column, names, missing, table.folder, advice)
        notes += (f"{len(gone)} of {count} images do not exist and are skipped: {quoted(gone)}",)
    places = {"": table.splits, "group ": table.groups}
    rows, values, row_notes = merged_rows(column, names, table.labels, places, join=join)
    labels, targets = as_labels(values)
    notes += row_notes
    return replace(
        table,
        filenames=tuple(names[i] for i in rows),
        labels=labels,
        targets=targets,
        splits=None if table.splits is None else tuple(table.splits[i] for i in rows),
        groups=None if table.groups is None else tuple(table.groups[i] for i in rows),
        notes=(f"{column.path}: {'; '.join(notes)}",) if notes else (),
    )


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


def _read_categories(path: str | Path) -> tuple[str, ...]:
    column = read_csv_at(path, "Labels").column("Labels", "name the column of class names 'Labels'")
    names = [text.strip() for text in column.texts]
    if "" in names:
        raise column.error(names.index(""), "the class name is empty; fill it in")
    column.check_unique(names, lambda i: f"both name the class {names[i]!r}; remove one")
    check_classes(column.path, names)
    return tuple(names)


def check_classes(path: str | Path, names: Iterable[str]) -> None:
    """Refuses control characters: class names are lines of classes.txt and are printed.

    Raises:
      ValueError: a name has one; names the file.
    """
    for name in names:
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            raise ValueError(
                f"{path}: the class name {name!r} contains a line break or another control "
                "character; rename the class"
            )


def labels_csv(table: LabelTable) -> str:
    """Returns the text of a CSV that `read_labels` reads back as this table.

    Unknown labels are empty cells, and soft labels are numbers between 0 and 1. Groups are read
    back with data.group_column=group.

    Raises:
      ValueError: a class is called like the column of file names, splits or groups.
    """
    columns = {"filename": list(table.filenames)}
    if table.splits is not None:
        columns[SPLIT_COLUMN] = list(table.splits)
    if table.groups is not None:
        columns[GROUP_COLUMN] = list(table.groups)
    reserved = {"filename", SPLIT_COLUMN} | (set() if table.groups is None else {GROUP_COLUMN})
    if taken := sorted(reserved & set(table.classes)):
        raise ValueError(
            f"the class {taken[0]!r} has the name of another column of the CSV; rename the class"
        )
    cells = np.array(["", "0", "1"], object)[table.labels.astype(int) - UNKNOWN]
    if table.targets is not None:
        for place in np.argwhere((table.targets > 0) & (table.targets < 1)):
            cells[*place] = np.format_float_positional(np.float32(table.targets[*place]), trim="-")
    frame = pd.concat([pd.DataFrame(columns), pd.DataFrame(cells, columns=table.classes)], axis=1)
    return csv_text(frame)
