"""Columns next to a label that say how certain it is, or who gave it."""

import re

import numpy as np

from mlcls_jax.data.readers.cell_values import UNKNOWN, soft_value
from mlcls_jax.data.readers.cells import Column, CsvCells, plain_name
from mlcls_jax.system.console import quoted

# Names of a column that says how certain a label is, and values that deny it.
_CONFIDENCE = re.compile(
    r"confidence|conf|certainty|value|score|prob(ability)?|presence|exists"
    r"|(is_|label_)?(present|positive)"
)
_ABSENT = {"0", "0.0", "-1", "False", "false", "no"}

# A column of people, of whom several may label one image.
PERSON = re.compile(
    r"(annotator|rater|labell?er|worker|reader|rad|radiologist|reviewer|voter|coder)"
    r"(_?(id|no|nr|name|number))?"
)


def check_annotators(columns: list[Column], names: Column, labels: Column) -> None:
    """Refuses rows of several annotators of one image, whose labels may be votes.

    Args:
      columns: the columns that are not file names or splits.
      names: the column of file names.
      labels: the column that lists the labels.

    Raises:
      ValueError: names the column of annotators and what decides.
    """
    for column in columns:
        if column is labels or not PERSON.fullmatch(plain_name(column.name)):
            continue
        pairs = set(zip(names.codes.tolist(), column.codes.tolist(), strict=True))
        if len(pairs) > len({name for name, _ in pairs}):
            raise ValueError(
                f"{column.path}: column {column.name!r} has several values for one image, so its "
                f"labels may be votes; set data.ignore_columns={column.name!r} to take each label "
                "that any of them gave, or write a column for each class with the share of votes"
            )


def check_denied(columns: list[Column], names: Column, labels: Column, found: np.ndarray) -> None:
    """Refuses labels that are all present if another column seems to deny some.

    Args:
      columns: the columns that are not file names or splits.
      names: the column of file names.
      labels: the column that lists the labels.
      found: int8 [row, class], as in `delimited_labels`.

    Raises:
      ValueError: every image has a row for each class, and a column has 0 or the like.
    """
    images = len(np.unique(names.codes))
    present = np.zeros((len(names.distinct), found.shape[1]), bool)
    np.logical_or.at(present, names.codes, found == 1)
    if images < 2 or found.shape[1] < 2 or present.sum() < images * found.shape[1]:
        return
    for column in columns:
        used = {column.distinct[code].strip() for code in np.unique(column.codes)}
        values = {soft_value(text) for text in used}
        if column is not labels and None not in values and 0 in values and len(values) > 1:
            raise ValueError(
                f"{column.path}: each image has rows of all labels of column {labels.name!r}, and "
                f"column {column.name!r} may say which are in the image; set "
                f"data.confidence_column={column.name!r} if it does, or "
                f"data.ignore_columns={column.name!r}"
            )


def confidence_column(
    cells: CsvCells, columns: list[Column], labels: Column, name: str, is_one: bool
) -> Column | None:
    """Returns the column that says whether the label of its row is in the image, if there is one.

    Args:
      cells: the label file.
      columns: the columns that are not file names or splits.
      labels: the column that lists the labels.
      name: its name; "": a column that is called like it, and says that some labels are absent.
      is_one: whether each cell of `labels` is one label, so that a column can be about it.

    Raises:
      ValueError: there is no such column, or nothing tells whether a column is one.
    """
    if name:
        return cells.column(name, "check data.confidence_column")
    found = []
    for column in columns:
        if column is labels or not _CONFIDENCE.fullmatch(plain_name(column.name)):
            continue
        used = {column.distinct[code].strip() for code in np.unique(column.codes)}
        values = {soft_value(text) for text in used}
        if is_one and None not in values and 0 in values:
            found.append(column)
        elif used & _ABSENT or (None not in values and values - {1, UNKNOWN}):
            raise ValueError(
                f"{column.path}: column {column.name!r} may say whether a label of column "
                f"{labels.name!r} is in the image; set data.confidence_column={column.name!r} if "
                f"it does (1: it is, 0: it is not), or data.ignore_columns={column.name!r} to take "
                "all labels as present"
            )
    if len(found) > 1:
        raise ValueError(
            f"{cells.path}: {quoted(column.name for column in found)} may each say whether a label "
            f"is in the image; set data.confidence_column to one of them"
        )
    return found[0] if found else None
