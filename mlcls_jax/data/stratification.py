"""Draws splits at random in which each class keeps its share of the images.

The result depends only on the file names, the labels and the seed: not on the order of rows or
columns, the process or the machine.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlcls_jax.data.label_table import LabelTable


def draw_splits(table: LabelTable, shares: Mapping[str, float], seed: int) -> np.ndarray:
    """Returns the split of each image: str [n].

    The draw is iterative stratification (Sechidis et al. 2011, "On the stratification of
    multi-label data"), by the package iterative-stratification.

    Args:
      table: n images; unknown labels count as absent.
      shares: the share of the images for each split, in the order in which they are drawn; all
        other images are "train".
      seed: 0 to 2**32 - 1.

    Raises:
      ValueError: the shares or the seed are out of range, or there are too few images.

    >>> labels = np.array([[1, 0], [0, 1]] * 4, np.int8)
    >>> table = LabelTable("images", tuple("abcdefgh"), labels, ("cat", "dog"))
    >>> draw_splits(table, {"val": 0.25}, seed=0).tolist()
    ['train', 'train', 'train', 'train', 'val', 'val', 'train', 'train']
    """
    names = np.full(len(table), "train", dtype="<U5")
    if not shares:
        return names
    counts = _counts(len(table), shares)
    if not 0 <= seed < 2**32:
        raise ValueError(f"data.split_seed: {seed} is not between 0 and 2**32 - 1; choose another")
    # Images and classes are sorted by name, so that their order in the CSV does not matter.
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


def _counts(n: int, shares: Mapping[str, float]) -> dict[str, int]:
    for split, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"data.{split}_fraction: {share} is not between 0 and 1; try 0.25")
    fields = " and ".join(f"data.{split}_fraction" for split in shares)
    if sum(shares.values()) >= 1:
        raise ValueError(
            f"{fields}: {' + '.join(map(str, shares.values()))} leaves nothing to train on; "
            "lower them"
        )
    counts = {split: max(1, round(n * share)) for split, share in shares.items()}
    if sum(counts.values()) >= n:
        raise ValueError(
            f"{fields}: {n} rows are too few to split off {', '.join(map(str, counts.values()))}; "
            "add images or lower the fraction"
        )
    return counts


def _stratified(positive: np.ndarray, count: int, needed: int, seed: int) -> np.ndarray:
    """Draws about `count` of n rows, with each class's share; leaves at least `needed`: bool [n].

    positive: bool [n, c].
    """
    # Imported here because it imports scikit-learn, which is not needed if the splits are given.
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    n = len(positive)
    # scikit-learn does not accept a single column as multi-label data: add an empty one.
    positive = np.pad(positive, ((0, 0), (0, 1)))
    # Any, because the package is untyped and the type of its default test_size is wrong.
    sizes: dict[str, Any] = {"test_size": count, "train_size": n - count}
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, random_state=seed, **sizes)
    rest, part = next(splitter.split(np.zeros(n), positive))
    if len(rest) < needed or not len(part):
        # With very few images, stratification can leave one side empty, for example if each class
        # has one image.
        part = np.random.RandomState(seed).permutation(n)[:count]
    chosen = np.zeros(n, dtype=bool)
    chosen[part] = True
    return chosen
