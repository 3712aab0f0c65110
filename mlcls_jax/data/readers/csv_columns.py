"""Decides which columns of a label file are classes, and which column lists labels."""

import csv
import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from mlcls_jax.data.readers.cells import Column, CsvCells, listed, plain_name
from mlcls_jax.data.readers.csv_confidence import PERSON
from mlcls_jax.system.console import quoted

_NON_CLASS = re.compile(
    r"is_?(valid|val|validation|train|training|test|holdout)|valid|val|validation|split|subset"
    r"|partition|k?_?folds?|fold_?(id|idx|no|nr|number)|sex|gender|age|id|idx|index|width|height"
    r"|(image|img|file|patient|subject|study|series|row|person|user|case|sample|group)_?(id|no|nr)"
)
_REPEATED = re.compile(r"(.+)\.[1-9]\d*")
# Columns of numbers from 0 to 1 that are rarely soft labels.
_MEASURE = re.compile(
    r".*(confidence|score|probability|weight|quality|ratio|area|share|sharpness|blur)"
    r"|prob|conf|iou|certainty|agreement|lat|lon|[xywh]|[xy]_?(min|max|cent(er|re)|0|1|2)"
)


def class_columns(
    cells: CsvCells,
    others: Collection[str],
    *,
    label_columns: str = "",
    ignore_columns: str = "",
    known: Collection[str] = (),
) -> list[Column]:
    """Returns the columns that may hold labels.

    Args:
      cells: the label file.
      others: names of the columns of file names and splits.
      label_columns: names or patterns of the columns to take, separated by commas; "": all.
        A name with a comma stands between double quotes.
      ignore_columns: names or patterns of the columns to leave out; these win.
      known: the class names, if they are known already. Names without a column are then accepted.

    Raises:
      ValueError: a name or a pattern fits no column.
    """
    columns = [column for column in cells.columns.values() if column.name not in others]
    if label_columns:
        chosen = _fitting(columns, label_columns, "label_columns", known)
        columns = [column for column in columns if column.name in chosen]
    if ignore_columns:
        ignored = _fitting(columns, ignore_columns, "ignore_columns", known)
        columns = [column for column in columns if column.name not in ignored]
    return columns


def _fitting(columns: list[Column], patterns: str, field: str, known: Collection[str]) -> set[str]:
    names = [column.name for column in columns]
    if patterns in names:  # one name that may contain commas
        return {patterns}
    found: set[str] = set()
    for pattern in next(csv.reader([patterns], skipinitialspace=True)):
        pattern = pattern.strip()
        fits = {pattern} & set(names) or {name for name in names if fnmatchcase(name, pattern)}
        if pattern and not fits and not known:
            path = f"{columns[0].path}: " if columns else ""
            raise ValueError(
                f"{path}data.{field} has {pattern!r}, which is none of the columns "
                f"{quoted(names)}; correct it"
            )
        found |= fits
    return found


def check_are_classes(columns: list[Column], known: Collection[str]) -> None:
    """Refuses columns of 0 and 1 that are called like something else than a class, or like another.

    Args:
      columns: columns that hold a label in each cell.
      known: names that are classes.

    Raises:
      ValueError: names the columns and the options that decide.
    """
    names = [column.name for column in columns if column.name not in known]
    if columns:
        _check_repeated(columns[0].path, names)
    found = [name for name in names if is_no_class(name)]
    found = [name for name in found if name != "split"]  # the user has another column of splits
    if found:
        name = found[0]
        raise ValueError(
            f"{columns[0].path}: {quoted(found)} may be no class; set data.split_column={name!r} "
            f"if it holds splits, data.ignore_columns={listed(found)!r} to leave it out, or name "
            "all classes in data.label_columns, such as '*'"
        )


def _check_repeated(path: Path | str, names: list[str]) -> None:
    """Refuses columns whose names differ only in case, or by the .1 of pandas."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.casefold(), name)
        repeated = _REPEATED.fullmatch(name)
        if repeated and repeated[1] in names:
            other = repeated[1]
        if other != name:
            why = "they differ only in case"
            if repeated:
                why = "pandas adds a number to the name of a repeated column"
            raise ValueError(
                f"{path}: columns {other!r} and {name!r} may be one class ({why}); set "
                f"data.ignore_columns={name!r} to leave the second out, or name all classes in "
                "data.label_columns, such as '*'"
            )


def check_soft(columns: list[Column], soft: list[str]) -> None:
    """Refuses soft labels that may be something else.

    They may be if at most half of the classes have any, or if a column is called like a measure.

    Args:
      columns: columns that hold a label in each cell.
      soft: the names of those that have soft labels.

    Raises:
      ValueError: names the columns and the options that decide.
    """
    found = [name for name in soft if _MEASURE.fullmatch(plain_name(name))]
    if not found and 2 * len(soft) <= len(columns):
        found = soft
    if found:
        raise ValueError(
            f"{columns[0].path}: {quoted(found)} hold numbers between 0 and 1, which may be soft "
            f"labels or something else; set data.ignore_columns={listed(found)!r} to leave them "
            "out, or name all classes in data.label_columns, such as '*'"
        )


def label_column(columns: list[Column], name: str) -> Column:
    """Returns the column that lists the labels.

    Args:
      columns: the columns that are not file names or splits.
      name: its name; "": the only one.

    Raises:
      ValueError: there is no such column, or there are several.
    """
    found = [column for column in columns if column.name == name or not name]
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"{columns[0].path}: cannot tell which of the columns "
        f"{quoted(column.name for column in columns)} holds the labels from "
        f"data.label_column={name!r}; set it to the name of one of them"
    )


def is_no_class(name: str) -> bool:
    """Returns whether a column that is called like this is rarely a class.

    >>> is_no_class("Patient ID"), is_no_class("is_valid"), is_no_class("train")
    (True, True, False)
    """
    plain = plain_name(name)
    return bool(_NON_CLASS.fullmatch(plain) or PERSON.fullmatch(plain))
