"""What the labels of a data set tell: their numbers, and classes that always go together."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8

from mlcls_jax.data.label_table import UNKNOWN, LabelTable

MAX_LABELS = 200_000_000  # beyond, every second, third … image is compared
_FIRST = 50  # positives of a class that rule out almost all other classes
# The probability that chance alone makes any pair of classes go together.
_CHANCE = 0.01


@dataclass(frozen=True)
class LabelFacts:
    """What the labels tell.

    splits: of each split the number of "images", and of "positive" and "unknown" labels.
    positives: of each class the number of positives by split.
    same_labels: groups of classes with equal labels.
    contained: pairs of classes, of which the first is on no image without the second.
    images_compared: number of images that same_labels and contained are of.
    """

    splits: dict[str, dict[str, int]]
    positives: dict[str, dict[str, int]]
    same_labels: list[list[str]]
    contained: list[list[str]]
    images_compared: int


def label_facts(splits: Mapping[str, LabelTable]) -> LabelFacts:
    """Returns what the labels of all splits tell.

    Args:
      splits: the table of each split; all have the same classes.
    """
    tables = list(splits.values())
    classes = tables[0].classes
    step = -(-sum(table.labels.size for table in tables) // MAX_LABELS)
    labels = np.concatenate([table.labels[:: max(step, 1)] for table in tables])
    groups, pairs = always_together(labels)
    positives = {split: table.positives.tolist() for split, table in splits.items()}
    return LabelFacts(
        splits={split: _counts(table) for split, table in splits.items()},
        positives={
            name: {split: counts[c] for split, counts in positives.items()}
            for c, name in enumerate(classes)
        },
        same_labels=[[classes[c] for c in group] for group in groups],
        contained=[[classes[a], classes[b]] for a, b in pairs],
        images_compared=len(labels),
    )


def _counts(table: LabelTable) -> dict[str, int]:
    unknown = int((table.labels == UNKNOWN).sum())
    return {"images": len(table), "positive": int(table.positives.sum()), "unknown": unknown}


def always_together(
    labels: Int8[np.ndarray, "image class"],
) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Returns the classes with equal labels, and those that never occur without another one.

    A class is contained in another one if no image has the first without the second; unknown labels
    contradict nothing. What may be chance is left out. With the frequency p of the second class and
    n positives of the first for which the second is known, n independent images would all have the
    second with a probability of p ** n.

    Args:
      labels: int8 [image, class], each 1, 0 or UNKNOWN.

    Returns:
      Groups of columns that are contained in each other, and pairs of columns, the contained one
      first. Of a group, only the first column is in a pair.

    >>> dog, animal, red = [1, 0] * 50, [1, 1, 1, 0] * 25, [1, 0, 0, 1] * 25
    >>> always_together(np.array([dog, animal, red, dog], np.int8).T)
    ([[0, 3]], [(0, 1)])
    """
    count = labels.shape[1]
    rows, columns = np.nonzero(labels == 1)
    rows, positives = (
        rows[np.argsort(columns, kind="stable")],
        np.bincount(columns, minlength=count),
    )
    frequencies = positives / np.maximum((labels != UNKNOWN).sum(axis=0), 1)
    contained = np.zeros((count, count), bool)
    for column, own in enumerate(np.split(rows, np.cumsum(positives)[:-1])):
        others, both = np.delete(np.arange(count), column), np.zeros(count - 1, np.int64)
        for part in (own[:_FIRST], own):
            given = labels[part[:, None], others]
            possible = ~(given == 0).any(axis=0)
            others, both = others[possible], (given[:, possible] == 1).sum(axis=0)
        contained[column, others] = frequencies[others] ** both * count**2 < _CHANCE
    return _groups_and_pairs(contained)


def _groups_and_pairs(contained: np.ndarray) -> tuple[list[list[int]], list[tuple[int, int]]]:
    equal = contained & contained.T | np.eye(len(contained), dtype=bool)
    first = equal.argmax(axis=1)  # of the group of each column
    groups = [
        np.flatnonzero(equal[column]).tolist()
        for column in range(len(equal))
        if first[column] == column and equal[column].sum() > 1
    ]
    pairs = [
        (int(a), int(b))
        for a, b in np.argwhere(contained & ~equal)
        if first[a] == a and first[b] == b
    ]
    return groups, pairs
