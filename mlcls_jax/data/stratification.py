"""Draws splits and folds at random in which each class keeps its share of the images.

Images of one group (a patient, a video, a site) stay together. The result depends only on the file
names, the labels, the groups and the seed: not on the order of rows or columns, the process or the
machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlcls_jax.data.label_table import LabelTable

# The search for even parts computes with integers, so that it gives the same parts on every
# machine: one image of a class with m images counts as SCALE / sqrt(m), rounded.
_SCALE = 2**14
_MOST_PASSES, _MOST_STARTS = 10, 8
_STARTED_GROUPS = 2000  # few groups are searched from several starts, with this many in all
_SWAPPED_GROUPS, _PARTNERS = 2000, 64  # groups that try to swap, and with how many others


def draw_splits(table: LabelTable, shares: Mapping[str, float], seed: int) -> np.ndarray:
    """Returns the split of each image: str [n].

    The draw is iterative stratification (Sechidis et al. 2011, "On the stratification of
    multi-label data"), by the package iterative-stratification. With groups, it is that of
    `draw_folds`; large groups can then make a split larger or smaller than its share.

    Args:
      table: n images; unknown labels count as absent. Images of one group get the same split.
      shares: the share of the images for each split, in the order in which they are drawn; all
        other images are "train".
      seed: 0 to 2**32 - 1.

    Raises:
      ValueError: the shares or the seed are out of range, or there are too few images or groups.

    >>> labels = np.array([[1, 0], [0, 1]] * 4, np.int8)
    >>> table = LabelTable("images", tuple("abcdefgh"), labels, ("cat", "dog"))
    >>> draw_splits(table, {"val": 0.25}, seed=0).tolist()
    ['train', 'train', 'train', 'train', 'val', 'val', 'train', 'train']
    """
    names = np.full(len(table), "train", dtype="<U5")
    if not shares:
        return names
    counts = _counts(len(table), shares)
    _check_seed(seed)
    if table.groups is not None:
        parts = _draw_parts(table, [1 - sum(shares.values()), *shares.values()], seed, "splits")
        return np.array(["train", *shares])[parts]
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


def draw_folds(table: LabelTable, folds: int, seed: int) -> np.ndarray:
    """Returns the fold of each image: int64 [n], from 0.

    Each class, and each image, is as evenly distributed over the folds as the groups allow. The
    measure is the sum of (count - share)^2 / share over folds and classes, and over folds for all
    images. Groups are assigned one by one, large ones first, each to the fold where it costs least.
    Then groups move and swap places as long as this lowers the measure.

    Args:
      table: n images; unknown labels count as absent. Images of one group get the same fold.
      folds: at least 2, at most the number of images or groups.
      seed: 0 to 2**32 - 1.

    Raises:
      ValueError: the number of folds or the seed is out of range.

    >>> labels = np.array([[1, 0], [0, 1]] * 4, np.int8)
    >>> groups = ("ann", "ann", "ben", "ben", "cem", "cem", "dan", "dan")
    >>> table = LabelTable("images", tuple("abcdefgh"), labels, ("cat", "dog"), groups=groups)
    >>> draw_folds(table, folds=2, seed=0).tolist()
    [1, 1, 0, 0, 0, 0, 1, 1]
    """
    if folds < 2:
        raise ValueError(f"data.folds: {folds} is less than 2; choose 5, for example")
    _check_seed(seed)
    return _draw_parts(table, [1 / folds] * folds, seed, "folds")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ValueError(f"data.split_seed: {seed} is not between 0 and 2**32 - 1; choose another")


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


def _draw_parts(table: LabelTable, shares: Sequence[float], seed: int, parts: str) -> np.ndarray:
    """Returns the part of each image, of which none is empty: int64 [n].

    shares: the share of the images for each part; they sum to 1.
    parts: what the message calls them.
    """
    codes = _group_codes(table)
    groups = int(codes.max(initial=-1)) + 1
    if groups < len(shares):
        kind = "images" if table.groups is None else "groups (data.group_column)"
        raise ValueError(
            f"{groups} {kind} are too few for {len(shares)} {parts}, each of which needs one; "
            f"ask for fewer {parts}, or add images"
        )
    columns = sorted(range(len(table.classes)), key=table.classes.__getitem__)
    counts = np.zeros((groups, len(columns) + 1))
    np.add.at(counts, codes, np.pad(table.labels[:, columns] == 1, ((0, 0), (1, 0))))
    counts[:, 0] = np.bincount(codes, minlength=groups)
    rng = np.random.Generator(np.random.PCG64(seed))
    starts = min(max(_STARTED_GROUPS // groups, 1), _MOST_STARTS)
    searches = [_Search(counts, np.array(shares), rng) for _ in range(starts)]
    return min(searches, key=lambda search: search.unevenness).parts[codes]


def _group_codes(table: LabelTable) -> np.ndarray:
    """A number per image, from 0, that images of one group share: int64 [n].

    Images without a group are groups of their own.
    """
    names = table.groups or ("",) * len(table)
    keys = [(name, "" if name else file) for name, file in zip(names, table.filenames, strict=True)]
    codes = {key: code for code, key in enumerate(sorted(set(keys)))}
    return np.array([codes[key] for key in keys], np.int64)


class _Search:
    """Looks for parts of even sizes and class shares, from a random order of the groups.

    Attributes:
      parts: int64 [g], the part of each group.
      unevenness: the measure of `draw_folds`, times _SCALE squared.
    """

    def __init__(self, counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator):
        """counts: float64 [g, k], images and positives of each group; shares: float64 [p]."""
        totals = counts.sum(axis=0)
        counts, totals = counts[:, totals > 0], totals[totals > 0]
        self.vectors = np.rint(counts * (_SCALE / np.sqrt(totals))).astype(np.int64)
        self.norms = (self.vectors**2).sum(axis=1)
        self.shares, self.rng = shares, rng
        # How much of each column a part has more than its share: int64 [p, k].
        self.excess = -np.rint(np.outer(shares, self.vectors.sum(axis=0))).astype(np.int64)
        self.parts = np.full(len(counts), -1)
        self.sizes = np.zeros(len(shares), np.int64)
        self.preference = rng.permutation(len(shares))  # among parts that cost the same
        order = rng.permutation(len(counts))
        # Large groups first, but at random among those of about one size.
        large_first = np.argsort(-np.frexp(self.norms[order])[1], kind="stable")
        self._assign(order[large_first])
        for _ in range(_MOST_PASSES):
            if not self._swap() + self._assign(order[large_first]):
                break
        self.unevenness = float(((self.excess**2).sum(axis=1) / shares).sum())

    def _assign(self, order: np.ndarray) -> int:
        """Puts each group where it costs least; returns how many changed their part."""
        changes = 0
        for place, group in enumerate(order):
            before, vector = int(self.parts[group]), self.vectors[group]
            if before >= 0:
                if self.sizes[before] == 1:
                    continue
                self._add(group, before, -1)
            cost = (2 * (self.excess @ vector) + self.norms[group]) / self.shares
            empty = self.sizes == 0
            if empty.sum() >= len(order) - place:  # as many groups left as empty parts
                cost[~empty] = np.inf
            part = int(self.preference[np.argmin(cost[self.preference])])
            if before >= 0 and cost[before] <= cost[part]:
                part = before
            self._add(group, part, 1)
            changes += int(part != before)
        return changes

    def _add(self, group: int, part: int, sign: int) -> None:
        self.excess[part] += sign * self.vectors[group]
        self.sizes[part] += sign
        self.parts[group] = part

    def _swap(self) -> int:
        """Swaps groups of different parts where that helps; returns how many swaps there were."""
        changes, groups = 0, len(self.parts)
        for group in self.rng.permutation(groups)[:_SWAPPED_GROUPS]:
            others = np.arange(groups)
            if groups > _PARTNERS:
                others = self.rng.integers(groups, size=_PARTNERS)
            part = int(self.parts[group])
            others = others[self.parts[others] != part]
            if not len(others):
                continue
            theirs, gains = self.parts[others], self.vectors[others] - self.vectors[group]
            norms = (gains**2).sum(axis=1)
            here = (2 * (gains @ self.excess[part]) + norms) / self.shares[part]
            there = (norms - 2 * (gains * self.excess[theirs]).sum(axis=1)) / self.shares[theirs]
            best = int(np.argmin(here + there))
            if here[best] + there[best] < 0:
                other, other_part = int(others[best]), int(theirs[best])
                for moved, source, target in ((group, part, other_part), (other, other_part, part)):
                    self._add(moved, source, -1)
                    self._add(moved, target, 1)
                changes += 1
        return changes
