"""Rows of a label file that name the same image."""

from collections.abc import Sequence

import numpy as np

from mlcls_jax.data.readers.csv_cells import Column


def merged_rows(
    column: Column,
    names: Sequence[str],
    labels: np.ndarray,
    splits: Sequence[str] | None,
    *,
    lists: bool,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Merges rows that name the same image.

    Identical rows count once. Rows with one label each, as for each object of an image, are joined.

    Args:
      column: the n file names as written, for error messages.
      names: the n file names as they are on the disk.
      labels: int8 [n, c].
      splits: the n splits, or None.
      lists: whether the labels are listed in a column, so that rows may be joined.

    Returns:
      The first row of each image: int [m]; their labels: int8 [m, c]; and what was merged.

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
    if splits is not None:
        for b, i in zip(before.tolist(), repeats.tolist(), strict=True):
            if splits[b] != splits[i]:
                problem = f"{names[i]!r}, in {splits[b]} and {splits[i]}; keep one"
                raise _contradiction(column, b, i, problem)
    differs = (labels[before] != labels[repeats]).any(axis=1)
    is_one = (labels == 1).sum(axis=1) == 1
    wrong = differs if not lists else differs & ~(is_one[before] & is_one[repeats])
    if wrong.any():
        i = int(repeats[wrong.argmax()])
        problem = f"{names[i]!r}, with different labels; merge their labels into one row"
        raise _contradiction(column, int(owner[i]), i, problem)
    if not differs.any():
        return kept, labels[kept], (f"{len(repeats)} rows repeat an image with the same labels",)
    result = labels.copy()
    np.maximum.at(result, before[differs], labels[repeats[differs]])
    return kept, result[kept], (f"{len(names)} rows of {len(kept)} images are joined",)


def _contradiction(column: Column, before: int, i: int, problem: str) -> ValueError:
    return ValueError(f"{column.path}: {column.where(before, i)}: both name the image {problem}")
