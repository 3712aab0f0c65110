"""A seeded draw of splits in which each class keeps its share.

It depends on the file names, the labels and the seed, and on nothing else: not on the order of
rows or columns, the process, or the machine.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlcls_jax.data.label_table import LabelTable


def draw_splits(table: LabelTable, wanted: Mapping[str, float], seed: int) -> np.ndarray:
    """str [n]: "train", or the split that the row is drawn into.

    Args:
      table: n images, of which unknown labels count as absent.
      wanted: split -> its share of the rows, in the order to draw them.
      seed: 0 to 2**32 - 1.

    Raises:
      ValueError: impossible shares or seed, or too few rows.
    """
    names = np.full(len(table), "train", dtype="<U5")
    if not wanted:
        return names
    counts = _counts(len(table), wanted)
    if not 0 <= seed < 2**32:
        raise ValueError(f"data.split_seed: {seed} is not in 0 to 2**32 - 1; choose another seed")
    # The draw sees images and classes by name, never in the order that they were written in.
    rest = np.array(sorted(range(len(table)), key=table.filenames.__getitem__))
    columns = sorted(range(len(table.classes)), key=table.classes.__getitem__)
    positive = table.labels[:, columns] == 1
    needed = 1 + sum(counts.values())
    for split, count in counts.items():
        needed -= count
        chosen = _stratified(positive[rest], count, needed, seed)
        names[rest[chosen]] = split
        rest = rest[~chosen]
    return names


def _counts(n: int, wanted: Mapping[str, float]) -> dict[str, int]:
    for split, share in wanted.items():
        if not 0 < share < 1:
            raise ValueError(f"data.{split}_fraction: {share} is not between 0 and 1; try 0.25")
    fields = " and ".join(f"data.{split}_fraction" for split in wanted)
    if sum(wanted.values()) >= 1:
        raise ValueError(
            f"{fields}: {' + '.join(map(str, wanted.values()))} leaves nothing to train on; "
            "lower them"
        )
    counts = {split: max(1, round(n * share)) for split, share in wanted.items()}
    if sum(counts.values()) >= n:
        raise ValueError(
            f"{fields}: {n} rows are too few to split off {', '.join(map(str, counts.values()))}; "
            "add images or lower the fraction"
        )
    return counts


def _stratified(positive: np.ndarray, count: int, needed: int, seed: int) -> np.ndarray:
    """bool [n]: about `count` rows with their share of each class; at least `needed` are left.

    positive: bool [n, c].
    """
    # Here, as it imports scikit-learn, which a run whose splits are given can do without.
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    n = len(positive)
    # scikit-learn takes a single column for something else than multi-label: add an empty one.
    positive = np.pad(positive, ((0, 0), (0, 1)))
    # Any: the package is untyped, and its default for test_size has a type that it refuses.
    sizes: dict[str, Any] = {"test_size": count, "train_size": n - count}
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, random_state=seed, **sizes)
    rest, part = next(splitter.split(np.zeros(n), positive))
    if len(rest) < needed or not len(part):
        # Of very few images, stratifying gives one side too many: one image per class, say,
        # all go to the larger one.
        part = np.random.RandomState(seed).permutation(n)[:count]
    chosen = np.zeros(n, dtype=bool)
    chosen[part] = True
    return chosen
