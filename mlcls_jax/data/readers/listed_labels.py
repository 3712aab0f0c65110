"""Reads the labels of a column that lists them, with the columns that say how certain they are."""

from collections.abc import Sequence

import numpy as np

from mlcls_jax.data.readers.cell_values import UNKNOWN
from mlcls_jax.data.readers.cells import Column, CsvCells
from mlcls_jax.data.readers.csv_confidence import (
    check_annotators,
    check_denied,
    confidence_column,
)
from mlcls_jax.data.readers.csv_rows import Join
from mlcls_jax.data.readers.csv_values import holds_one_label, label_values
from mlcls_jax.data.readers.delimited import check_one_label, delimited_labels, holds_lists


def listed_labels(
    cells: CsvCells,
    column: Column,
    columns: list[Column],
    known: Sequence[str] | None,
    *,
    names: Column,
    delimiter: str,
    confidence: str,
    minus_one: str,
    empty_cells: str,
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...], Join, list[Column]]:
    """Returns the labels of a column that lists them.

    Args:
      cells: the label file.
      column: lists the labels.
      columns: the columns that are not file names, splits or groups.
      known: the class names, if they are known already.
      names: the file names.
      delimiter, minus_one, empty_cells: see CsvOptions.
      confidence: the name of a column, or ""; see `confidence_column`.

    Returns:
      The class names; labels, as in `as_labels`; how they were understood; which rows are joined;
      and the columns that were read.

    Raises:
      ValueError: a cell is no label, or nothing tells what the columns mean.
    """
    is_one = not delimiter and not holds_lists(column)
    if is_one:
        check_one_label(column)
    found, labels, notes = delimited_labels(column, delimiter, known)
    if is_one:
        notes += (f"each cell of column {column.name!r} is one label",)
    confidences = confidence_column(cells, columns, column, confidence, is_one)
    if not confidences:
        if known is None:
            check_annotators(columns, names, column)
            check_denied(columns, names, column, labels)
        return found, labels, notes, "listed", [column]
    values, value_notes = label_values([confidences], minus_one, empty_cells)
    labels = np.where(labels == 1, values, values.dtype.type(UNKNOWN))
    rule = f"column {confidences.name!r} says whether a label is in the image"
    notes += (*value_notes, f"{rule}; labels without a row are unknown")
    return found, labels, notes, "known", [column, confidences]


def lists_labels(columns: list[Column]) -> bool:
    """Returns whether there is one column, whose cells list labels or are one each."""
    return len(columns) == 1 and (holds_lists(columns[0]) or holds_one_label(columns[0]))
