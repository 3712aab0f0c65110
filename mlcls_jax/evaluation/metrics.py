"""Multi-label metrics over all scores of a split, unknown labels left out of each.

mAP is the mean over classes of the non-interpolated average precision (scikit-learn's
`average_precision_score`, ties included).  Per-class (C) and overall (O) precision, recall and F1
follow Wu and Zhou, arXiv:1609.00288, and the multi-label literature since: CF1 is the harmonic
mean of CP and CR, not the mean of the classes' F1.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

from mlcls_jax.data.label_table import UNKNOWN

THRESHOLD = 0.5
TOP_K = 3


@dataclass(frozen=True)
class Scores:
    """Metrics of one split.

    values: mAP, loss, CP, CR, CF1, OP, OR, OF1, and the last six again with the suffix @3, where
        the three most probable classes of each image count as predicted.
    class_ap: average precision per class name; NaN for a class that is left out.
    excluded_classes: names of the classes that are in no mean, for want of positives.
    """

    values: dict[str, float]
    class_ap: dict[str, float]
    excluded_classes: list[str]


def evaluate_scores(
    labels: Int8[np.ndarray, "image class"],
    probabilities: Float[np.ndarray, "image class"],
    classes: tuple[str, ...],
    included_classes: Bool[np.ndarray, " class"] | None = None,
) -> Scores:
    """All metrics of a split.

    Args:
        labels: 1, 0 or UNKNOWN.
        probabilities: in [0, 1].
        classes: names, in column order.
        included_classes: False for classes that no mean includes; those without a positive
            label here are excluded as well.
    """
    included = classes_to_average(labels, included_classes)
    aps = average_precisions(labels, probabilities, included)
    values = {
        "mAP": float(np.mean(aps[included])) if included.any() else float("nan"),
        "loss": binary_cross_entropy(labels, probabilities),
    }
    at_threshold = probabilities >= THRESHOLD
    for suffix, predicted in (("", at_threshold), (f"@{TOP_K}", top_k(probabilities, TOP_K))):
        counts = decision_values(labels, predicted, included)
        values |= {f"{name}{suffix}": value for name, value in counts.items()}
    excluded_classes = [name for name, keep in zip(classes, included, strict=True) if not keep]
    class_ap = {name: float(ap) for name, ap in zip(classes, aps, strict=True)}
    return Scores(values, class_ap, excluded_classes)


def classes_to_average(
    labels: Int8[np.ndarray, "image class"],
    included_classes: Bool[np.ndarray, " class"] | None = None,
) -> Bool[np.ndarray, " class"]:
    """Classes that are in the means: with a positive label, and counted."""
    there = (labels == 1).any(axis=0)
    return there if included_classes is None else there & included_classes


def average_precisions(
    labels: Int8[np.ndarray, "image class"],
    scores: Float[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
) -> Float[np.ndarray, " class"]:
    """Average precision per class over its known labels; NaN where not included."""
    from sklearn.metrics import average_precision_score  # most of a second, after the first steps

    result = np.full(labels.shape[1], np.nan)
    for c in np.flatnonzero(included):
        known = labels[:, c] != UNKNOWN
        result[c] = average_precision_score(labels[known, c], scores[known, c])
    return result


def binary_cross_entropy(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> float:
    """Mean over the known labels, in nats; NaN where there is none."""
    known = labels != UNKNOWN
    tiny = np.finfo(np.float32).tiny
    of_truth = np.where(labels == 1, probabilities, 1.0 - probabilities)[known]
    return float(-np.log(np.maximum(of_truth, tiny)).mean()) if known.any() else float("nan")


def top_k(scores: Float[np.ndarray, "image class"], k: int) -> Bool[np.ndarray, "image class"]:
    """True at the k highest scores of each image; of equal scores the first classes win."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen


def constant_predictor(
    frequencies: Float[np.ndarray, " class"], images: int
) -> Float[np.ndarray, "image class"]:
    """What every model has to beat: each class's training frequency, for every image."""
    return np.broadcast_to(frequencies, (images, len(frequencies)))


def decision_values(
    labels: Int8[np.ndarray, "image class"],
    predicted: Bool[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
) -> dict[str, float]:
    """CP, CR, CF1, OP, OR and OF1 of the included classes; 0 where nothing was predicted."""
    labels, predicted = labels[:, included], predicted[:, included]
    positive, predicted = labels == 1, predicted & (labels != UNKNOWN)
    true = (positive & predicted).sum(axis=0)
    cp = _mean(true / np.maximum(predicted.sum(axis=0), 1))
    cr = _mean(true / np.maximum(positive.sum(axis=0), 1))
    op = true.sum() / max(predicted.sum(), 1)
    or_ = true.sum() / max(positive.sum(), 1)
    values = {"CP": cp, "CR": cr, "CF1": _f1(cp, cr), "OP": op, "OR": or_, "OF1": _f1(op, or_)}
    return {name: float(value) for name, value in values.items()}


def _mean(values) -> float:
    return float(values.mean()) if values.size else float("nan")


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def finite_or_none(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
