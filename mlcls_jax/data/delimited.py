"""One column of labels, such as "dog;cat", as classes."""

from collections.abc import Sequence

import numpy as np

from mlcls_jax.data.csv_cells import Column, quoted

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
