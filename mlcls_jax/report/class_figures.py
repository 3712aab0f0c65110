"""Figures per class and per pair of classes, and the curves that are drawn of them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.evaluation.metrics import average_precisions, classes_to_average

PAIRS = 15  # of classes in a table
LEAST = 2  # images: one alone is chance
BINS = 10  # of the reliability diagram
POINTS = 60  # of a curve: more than an image of this size can show


@dataclass(frozen=True)
class ClassRow:
    """A line of the table of classes; None where there is nothing to divide by.

    ap: average precision; the others by the threshold; train, val: numbers of positives.
    """

    name: str
    ap: float | None
    f1: float | None
    precision: float | None
    recall: float | None
    threshold: float
    train: int
    val: int


def class_rows(
    train: LabelTable,
    table: LabelTable,
    probabilities: Float[np.ndarray, "image class"],
    present: Bool[np.ndarray, "image class"],
    thresholds: tuple[float, ...],
) -> list[ClassRow]:
    """The classes in their order.

    Args:
        train: labels of the training images.
        table: labels of the validation images.
        probabilities, present: of these.
        thresholds: per class.
    """
    labels = table.labels
    aps = average_precisions(labels, probabilities, classes_to_average(labels))
    positive, taken = labels == 1, present & (labels != UNKNOWN)
    true, guessed, there = (x.sum(axis=0) for x in (positive & taken, taken, positive))
    return [
        ClassRow(
            name=name,
            ap=float(aps[c]) if there[c] else None,
            f1=_divided(2 * true[c], guessed[c] + there[c]),
            precision=_divided(true[c], guessed[c]),
            recall=_divided(true[c], there[c]),
            threshold=thresholds[c],
            train=int(train.positives[c]),
            val=int(there[c]),
        )
        for c, name in enumerate(table.classes)
    ]


@dataclass(frozen=True)
class Pair:
    """Two classes: on `count` images the first was missed and the second said to be there
    wrongly, or both were said to be there, of which `labelled` have both."""

    first: str
    second: str
    count: int
    labelled: int = 0


def confused(
    classes: tuple[str, ...],
    labels: Int8[np.ndarray, "image class"],
    present: Bool[np.ndarray, "image class"],
) -> list[Pair]:
    """Pairs of a class that was missed and one that was wrongly seen instead, the most first."""
    missed = ((labels == 1) & ~present).astype(np.int64)
    wrong = ((labels == 0) & present).astype(np.int64)
    return _pairs(classes, missed.T @ wrong)


def together(
    classes: tuple[str, ...],
    labels: Int8[np.ndarray, "image class"],
    present: Bool[np.ndarray, "image class"],
) -> list[Pair]:
    """Pairs that are said to be there together more often than they are, the largest excess first.

    Images on which one of the two is unknown count neither here nor there.
    """
    known = (labels != UNKNOWN).astype(np.int64)
    said, are = (np.triu(x.T @ x, 1) for x in (present * known, (labels == 1).astype(np.int64)))
    pairs = []
    for pair in _pairs(classes, np.maximum(said - are, 0)):
        at = classes.index(pair.first), classes.index(pair.second)
        pairs.append(Pair(pair.first, pair.second, int(said[at]), int(are[at])))
    return pairs


def _pairs(classes: tuple[str, ...], counts: np.ndarray) -> list[Pair]:
    order = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
    cells = [np.unravel_index(at, counts.shape) for at in order]
    return [
        Pair(classes[a], classes[b], int(counts[a, b])) for a, b in cells if counts[a, b] >= LEAST
    ]


def precision_recall(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Curves of recall and precision, float64 [2, point]: of each class that has a positive, and
    of all pairs of image and class together."""
    columns = [
        (labels[known, c], probabilities[known, c])
        for c, known in enumerate((labels != UNKNOWN).T)
        if (labels[:, c] == 1).any()
    ]
    known = labels != UNKNOWN
    return [_curve(*column) for column in columns], _curve(labels[known], probabilities[known])


def _curve(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    from sklearn.metrics import precision_recall_curve  # most of a second, after the first steps

    precision, recall, _ = precision_recall_curve(labels, probabilities)
    chosen = np.searchsorted(-recall, -np.linspace(1, 0, POINTS), side="right") - 1
    chosen = np.unique(np.clip(chosen, 0, len(recall) - 1))
    return np.stack([recall[chosen], precision[chosen]])


@dataclass(frozen=True)
class Bin:
    """Pairs of image and class with nearly the same probability: its mean, the share of
    positives, and how many they are."""

    probability: float
    positives: float
    count: int


def reliability(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> list[Bin]:
    """Ten bins of equal width, those that are empty left out (Guo et al., arXiv:1706.04599)."""
    known = labels != UNKNOWN
    p, positive = probabilities[known], labels[known] == 1
    number = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    return [
        Bin(float(p[of].mean()), float(positive[of].mean()), int(of.sum()))
        for of in (number == bin_number for bin_number in range(BINS))
        if of.any()
    ]


def _divided(part: np.integer, whole: np.integer) -> float | None:
    return float(part / whole) if whole else None
