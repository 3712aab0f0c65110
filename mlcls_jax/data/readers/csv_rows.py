"""Rows of a label file that name the same image."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mlcls_jax.data.readers.cell_values import UNKNOWN
from mlcls_jax.data.readers.cells import Column

# Which rows of one image are joined: none; rows that list labels which are present; or rows that
# say for some classes whether they are present.
Join = Literal["none", "listed", "known"]


def merged_rows(
    column: Column,
    names: Sequence[str],
    labels: np.ndarray,
    places: Mapping[str, Sequence[str] | None],
    *,
    join: Join,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Merges rows that name the same image.

    Identical rows count once. Rows with one label each, as for each object of an image, are joined.

    Args:
      column: the n file names as written, for error messages.
      names: the n file names as they are on the disk.
      labels: int8 or float32 [n, c], as in `as_labels`.
      places: the n splits or groups, or None, by what the message calls them.
      join: which rows are joined.

    Returns:
      The first row of each image: int [m]; their labels: [m, c]; and what was merged.

    Raises:
      ValueError: rows contradict each other; names both.
    """
    first: dict[str, int] = {}
    owner = np.array([first.setdefault(name, i) for i, name in enumerate(names)], np.int64)
    kept = np.array(list(first.values()), np.int64)
    repeats = np.flatnonzero(owner != np.arange(len(names)))
    if not len(repeats):
        return kept, labels, ()
    before = owner[repeats]
    for kind, values in places.items():
        for b, i in zip(before.tolist(), repeats.tolist(), strict=True):
            if values is not None and values[b] != values[i]:
                problem = f"{names[i]!r}, in {kind}{values[b]} and {kind}{values[i]}; keep one"
                raise _contradiction(column, b, i, problem)
    joined = (f"{len(names)} rows of {len(kept)} images are joined",)
    if join == "known":
        return kept, _known(column, names, labels, owner)[kept], joined
    differs = (labels[before] != labels[repeats]).any(axis=1)
    is_one = (labels == 1).sum(axis=1) == 1
    wrong = differs if join == "none" else differs & ~(is_one[before] & is_one[repeats])
    if wrong.any():
        i = int(repeats[wrong.argmax()])
        problem = f"{names[i]!r}, with different labels; merge their labels into one row"
        raise _contradiction(column, int(owner[i]), i, problem)
    if not differs.any():
        return kept, labels[kept], (f"{len(repeats)} rows repeat an image with the same labels",)
    result = labels.copy()
    np.maximum.at(result, before[differs], labels[repeats[differs]])
    return kept, result[kept], joined


def _known(
    column: Column, names: Sequence[str], labels: np.ndarray, owner: np.ndarray
) -> np.ndarray:
    """What the rows of each image know together, in its first row."""
    highest, lowest = labels.copy(), np.where(labels == UNKNOWN, 1, labels)
    np.maximum.at(highest, owner, labels)
    np.minimum.at(lowest, owner, lowest.copy())
    wrong = np.argwhere(
        (highest != UNKNOWN) & (highest != lowest) & (owner[:, None] == _rows(owner))
    )
    if len(wrong):
        first, label = wrong[0].tolist()
        rows = np.flatnonzero((owner == first) & (labels[:, label] != UNKNOWN))
        other = next(i for i in rows.tolist() if labels[i, label] != labels[rows[0], label])
        problem = f"{names[first]!r}, with different values for one label; keep one"
        raise _contradiction(column, int(rows[0]), other, problem)
    return highest


def _rows(owner: np.ndarray) -> np.ndarray:
    return np.arange(len(owner))[:, None]


def _contradiction(column: Column, before: int, i: int, problem: str) -> ValueError:
    return ValueError(f"{column.path}: {column.where(before, i)}: both name the image {problem}")
