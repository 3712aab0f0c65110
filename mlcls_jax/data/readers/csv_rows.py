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
    repeats = [
        (before, i) for i, name in enumerate(names) if (before := first.setdefault(name, i)) != i
    ]
    kept = np.array(list(first.values()), np.int64)
    if not repeats:
        return kept, labels, ()
    result, joined = labels.copy(), 0
    for before, i in repeats:
        if splits is not None and splits[before] != splits[i]:
            raise _contradiction(
                column, before, i, f"{names[i]!r}, in {splits[before]} and {splits[i]}; keep one"
            )
        if (labels[before] == labels[i]).all():
            continue
        if not lists or {(labels[before] == 1).sum(), (labels[i] == 1).sum()} != {1}:
            raise _contradiction(
                column,
                before,
                i,
                f"{names[i]!r}, with different labels; merge their labels into one row",
            )
        joined += 1
        result[before] |= labels[i]
    same = f"{len(repeats)} rows repeat an image with the same labels"
    rows = f"{len(names)} rows of {len(kept)} images are joined"
    return kept, result[kept], (rows if joined else same,)


def _contradiction(column: Column, before: int, i: int, problem: str) -> ValueError:
    return ValueError(f"{column.path}: {column.where(before, i)}: both name the image {problem}")
