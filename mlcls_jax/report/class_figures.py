"""Figures per class and per pair of classes, and the points of the curves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8, Real

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.evaluation.auroc import class_aurocs, macro_auroc, micro_auroc
from mlcls_jax.evaluation.bootstrap import Interval
from mlcls_jax.evaluation.metrics import average_precisions, classes_to_average

PAIRS = 15  # most pairs of classes in a table
MIN_IMAGES = 2  # of a pair: one image alone is chance
BINS = 10  # of the reliability diagram
SCORE_BINS = 20  # of the histogram of a class
TABLE = 25  # most classes in the table of labels that occur together
POINTS = 60  # of a curve: a chart of this size cannot show more


@dataclass(frozen=True)
class ClassRow:
    """One row of the table of classes; a ratio with denominator 0 is None.

    Attributes:
        name: name of the class.
        ap: average precision.
        auroc: area under the ROC curve.
        f1, precision, recall: at the threshold.
        threshold: threshold of the class.
        train, val: number of positive images.
    """

    name: str
    ap: float | None
    auroc: float | None
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
    """Returns the row of each class, in order.

    Args:
        train: labels of the training images.
        table: labels of the validation images.
        probabilities: predicted probabilities of the validation images, float64 [image, class].
        present: predicted classes of these images, bool [image, class].
        thresholds: threshold of each class.
    """
    labels = table.labels
    counted = classes_to_average(labels)
    aps = average_precisions(labels, probabilities, counted)
    aurocs = class_aurocs(labels, probabilities, counted)
    positive, predicted = labels == 1, present & (labels != UNKNOWN)
    true_positives = (positive & predicted).sum(axis=0)
    predictions, positives = predicted.sum(axis=0), positive.sum(axis=0)
    return [
        ClassRow(
            name=name,
            ap=float(aps[c]) if positives[c] else None,
            auroc=None if np.isnan(aurocs[c]) else float(aurocs[c]),
            f1=_ratio(2 * true_positives[c], predictions[c] + positives[c]),
            precision=_ratio(true_positives[c], predictions[c]),
            recall=_ratio(true_positives[c], positives[c]),
            threshold=thresholds[c],
            train=int(train.positives[c]),
            val=int(positives[c]),
        )
        for c, name in enumerate(table.classes)
    ]


def averages(
    labels: Int8[np.ndarray, "image class"],
    logits: Float[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
    intervals: Mapping[str, Interval],
) -> list[tuple[str, float, Interval | None]]:
    """Returns the metrics over all classes that need no threshold: name, value and interval.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        logits: float [image, class].
        included: bool [class], the classes to average.
        intervals: by the name of the metric, from `bootstrap_intervals`.
    """
    if not included.any():
        return []
    aurocs = class_aurocs(labels, logits, included)
    precisions = average_precisions(labels, logits, included)[included]
    counts = len(precisions), len(aurocs) - np.isnan(aurocs).sum()
    names = [
        f"{name}, mean over {n} classes" for name, n in zip(("mAP", "AUROC"), counts, strict=True)
    ]
    return [
        (names[0], float(precisions.mean()), intervals.get("mAP")),
        (names[1], macro_auroc(aurocs), intervals.get("AUROC")),
        ("AUROC, all pairs of image and class", micro_auroc(labels, logits, included), None),
    ]


@dataclass(frozen=True)
class Pair:
    """Two classes and the images they share.

    Attributes:
        first, second: names of the classes.
        count: images on which the first was missed and the second wrongly predicted
            (`confused`), or on which both were predicted (`together`).
        labelled: images that are labelled with both (`together`).
    """

    first: str
    second: str
    count: int
    labelled: int = 0


def confused(
    classes: tuple[str, ...],
    labels: Int8[np.ndarray, "image class"],
    present: Bool[np.ndarray, "image class"],
) -> list[Pair]:
    """Returns pairs of a missed class and a wrongly predicted one, the most frequent first."""
    missed = ((labels == 1) & ~present).astype(np.int64)
    wrong = ((labels == 0) & present).astype(np.int64)
    return _pairs(classes, missed.T @ wrong)


def together(
    classes: tuple[str, ...],
    labels: Int8[np.ndarray, "image class"],
    present: Bool[np.ndarray, "image class"],
) -> list[Pair]:
    """Returns pairs predicted together more often than labelled so, the largest excess first.

    Images on which the label of one of the two is unknown are ignored.
    """
    known = (labels != UNKNOWN).astype(np.int64)
    predicted, labelled = (
        np.triu(x.T @ x, 1) for x in (present * known, (labels == 1).astype(np.int64))
    )
    pairs = []
    for pair in _pairs(classes, np.maximum(predicted - labelled, 0)):
        cell = classes.index(pair.first), classes.index(pair.second)
        count, both = int(predicted[cell]), int(labelled[cell])
        pairs.append(Pair(pair.first, pair.second, count, both))
    return pairs


def _pairs(classes: tuple[str, ...], counts: np.ndarray) -> list[Pair]:
    order = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
    cells = [np.unravel_index(index, counts.shape) for index in order]
    return [
        Pair(classes[a], classes[b], int(counts[a, b]))
        for a, b in cells
        if counts[a, b] >= MIN_IMAGES
    ]


def precision_recall(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Returns the curves of recall and precision, each float64 [2, point].

    Returns:
        The curve of each class with a positive label by its column, and that of all pairs of image
        and class.
    """
    known = labels != UNKNOWN
    each = {
        c: _curve(labels[known[:, c], c], probabilities[known[:, c], c])
        for c in np.flatnonzero((labels == 1).any(axis=0)).tolist()
    }
    return each, _curve(labels[known], probabilities[known])


def _curve(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    from sklearn.metrics import precision_recall_curve  # slow, so not before the first steps

    precision, recall, _ = precision_recall_curve(labels, probabilities)
    chosen = np.searchsorted(-recall, -np.linspace(1, 0, POINTS), side="right") - 1
    chosen = np.unique(np.clip(chosen, 0, len(recall) - 1))
    return np.stack([recall[chosen], precision[chosen]])


@dataclass(frozen=True)
class Bin:
    """Pairs of image and class with similar probabilities.

    Attributes:
        probability: mean predicted probability.
        positives: share of positive labels.
        count: number of pairs.
    """

    probability: float
    positives: float
    count: int


def reliability(
    labels: Real[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> list[Bin]:
    """Returns ten bins of equal width, without the empty ones (Guo et al., arXiv:1706.04599).

    Args:
        labels: int8 or float32, each UNKNOWN, 1, 0, or a soft label between them.
        probabilities: float64.
    """
    known = labels != UNKNOWN
    p, share = probabilities[known], labels[known]
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    return [
        Bin(float(p[inside].mean()), float(share[inside].mean()), int(inside.sum()))
        for inside in (bins == index for index in range(BINS))
        if inside.any()
    ]


def score_histogram(
    labels: Int8[np.ndarray, " image"], probabilities: Float[np.ndarray, " image"]
) -> Float[np.ndarray, "label bin"]:
    """Returns the shares of the images by predicted probability, of those without and with a class.

    Args:
        labels: of one class, int8 [image]; unknown ones are left out.
        probabilities: float64 [image].

    Returns:
        float64 [2, SCORE_BINS]; each row with images sums to 1.

    >>> shares = score_histogram(np.int8([0, 0, 1, -1]), np.array([0.01, 0.99, 1.0, 0.5]))
    >>> shares[:, [0, -1]].tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    bins = np.minimum((probabilities * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    counts = [np.bincount(bins[labels == label], minlength=SCORE_BINS) for label in (0, 1)]
    return np.stack([count / max(count.sum(), 1) for count in counts])


def co_occurrence(table: LabelTable) -> tuple[list[int], Float[np.ndarray, "class class"]]:
    """Returns how often images with one class also have another one.

    Args:
        table: labels; unknown ones count in no cell of their class.

    Returns:
        The columns of the most frequent classes in the order of the table, at most TABLE, and the
        share of the images with the class of a row, among those where the class of a column is
        known, that have it too; NaN where there are none.
    """
    chosen = np.sort(np.argsort(-table.positives, kind="stable")[:TABLE])
    labels = table.labels[:, chosen]
    positive, known = (labels == 1).astype(np.float64), (labels != UNKNOWN).astype(np.float64)
    images = positive.T @ known
    empty = np.full(images.shape, np.nan)
    return chosen.tolist(), np.divide(positive.T @ positive, images, out=empty, where=images > 0)


def _ratio(part: np.integer, whole: np.integer) -> float | None:
    return float(part / whole) if whole else None
