"""Multi-label metrics of a split; unknown labels are excluded from all of them.

mAP is the mean over classes of the non-interpolated average precision, which equals scikit-learn's
`average_precision_score`, ties included. AUROC is the mean over classes of the area under the ROC
curve; see auroc.py.

Precision, recall and F1 follow Wu and Zhou (arXiv:1609.00288) and the multi-label literature since:

    CP   per-class precision: the mean over classes of each class's precision
    CR   per-class recall: the mean over classes of each class's recall
    CF1  per-class F1: the harmonic mean of CP and CR, not the mean of the classes' F1
    OP   overall precision, over all pairs of image and class together
    OR   overall recall, over all pairs of image and class together
    OF1  overall F1: the harmonic mean of OP and OR

The suffix @3 marks the same metrics when the three most probable classes of each image count as
predicted.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation.auroc import class_aurocs, macro_auroc

THRESHOLD = 0.5
TOP_K = 3


@dataclass(frozen=True)
class Scores:
    """Metrics of one split.

    Attributes:
        values: mAP, AUROC, loss, CP, CR, CF1, OP, OR and OF1; the last six also with the suffix @3.
        class_ap: average precision per class name; NaN for an excluded class.
        class_auroc: AUROC per class name; NaN for an excluded class, and for one without a negative
            label.
        excluded_classes: names of the classes that the averages over classes exclude, because
            they have too few positives.
    """

    values: dict[str, float]
    class_ap: dict[str, float]
    class_auroc: dict[str, float]
    excluded_classes: list[str]


def evaluate_scores(
    labels: Int8[np.ndarray, "image class"],
    probabilities: Float[np.ndarray, "image class"],
    classes: tuple[str, ...],
    included_classes: Bool[np.ndarray, " class"] | None = None,
) -> Scores:
    """Returns all metrics of a split.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        probabilities: float [image, class], in [0, 1].
        classes: class names, in column order.
        included_classes: bool [class], False for classes that the averages exclude; None includes
            all. Classes without a positive label here are always excluded.

    Returns:
        The metrics, at a threshold of 0.5 and for the three most probable classes.

    >>> labels = np.array([[1, 0], [1, 1], [0, -1]], np.int8)
    >>> probabilities = np.array([[0.9, 0.6], [0.4, 0.7], [0.5, 0.9]])
    >>> scores = evaluate_scores(labels, probabilities, ("cat", "dog"))
    >>> {name: round(scores.values[name], 3) for name in ("mAP", "CP", "CR", "CF1")}
    {'mAP': 0.917, 'CP': 0.5, 'CR': 0.75, 'CF1': 0.6}
    >>> {name: round(ap, 3) for name, ap in scores.class_ap.items()}
    {'cat': 0.833, 'dog': 1.0}
    """
    included = classes_to_average(labels, included_classes)
    aps = average_precisions(labels, probabilities, included)
    aurocs = class_aurocs(labels, probabilities, included)
    values = {
        "mAP": float(np.mean(aps[included])) if included.any() else float("nan"),
        "AUROC": macro_auroc(aurocs),
        "loss": binary_cross_entropy(labels, probabilities),
    }
    at_threshold = probabilities >= THRESHOLD
    for suffix, predicted in (("", at_threshold), (f"@{TOP_K}", top_k(probabilities, TOP_K))):
        metrics = decision_values(labels, predicted, included)
        values |= {f"{name}{suffix}": value for name, value in metrics.items()}
    excluded_classes = [name for name, keep in zip(classes, included, strict=True) if not keep]
    class_ap, class_auroc = (
        {name: float(value) for name, value in zip(classes, per_class, strict=True)}
        for per_class in (aps, aurocs)
    )
    return Scores(values, class_ap, class_auroc, excluded_classes)


def classes_to_average(
    labels: Int8[np.ndarray, "image class"],
    included_classes: Bool[np.ndarray, " class"] | None = None,
) -> Bool[np.ndarray, " class"]:
    """Returns the classes that the averages include: those with a positive label.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        included_classes: bool [class], False for classes to exclude as well; None for no others.

    Returns:
        Bool [class].

    >>> classes_to_average(np.array([[1, 0, -1], [0, 0, 1]], np.int8)).tolist()
    [True, False, True]
    """
    has_positive = (labels == 1).any(axis=0)
    return has_positive if included_classes is None else has_positive & included_classes


def average_precisions(
    labels: Int8[np.ndarray, "image class"],
    scores: Float[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
) -> Float[np.ndarray, " class"]:
    """Returns the average precision of each class over its known labels.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        scores: float [image, class]; only their order matters.
        included: bool [class]; each included class has a positive label.

    Returns:
        Float64 [class]; NaN for classes that are not included.

    >>> labels = np.array([[1, 1], [0, 0], [1, 0]], np.int8)
    >>> scores = np.array([[0.9, 0.2], [0.8, 0.8], [0.7, 0.1]])
    >>> average_precisions(labels, scores, np.array([True, True])).round(3).tolist()
    [0.833, 0.5]
    """
    from sklearn.metrics import average_precision_score  # imported late: takes most of a second

    result = np.full(labels.shape[1], np.nan)
    for c in np.flatnonzero(included):
        known = labels[:, c] != UNKNOWN
        result[c] = average_precision_score(labels[known, c], scores[known, c])
    return result


def binary_cross_entropy(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> float:
    """Returns the mean cross-entropy over the known labels, in nats; NaN if none is known.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        probabilities: float [image, class], in [0, 1].

    >>> labels = np.array([[1, 0, -1]], np.int8)
    >>> round(binary_cross_entropy(labels, np.array([[0.5, 0.5, 0.9]])), 4)  # log 2
    0.6931
    """
    known = labels != UNKNOWN
    tiny = np.finfo(np.float32).tiny
    probability_of_label = np.where(labels == 1, probabilities, 1.0 - probabilities)[known]
    if not known.any():
        return float("nan")
    return float(-np.log(np.maximum(probability_of_label, tiny)).mean())


def top_k(scores: Float[np.ndarray, "image class"], k: int) -> Bool[np.ndarray, "image class"]:
    """Returns a mask of the k highest scores of each image; ties go to the earlier classes.

    Args:
        scores: float [image, class].
        k: number of classes per image; all of them if there are fewer.

    Returns:
        Bool [image, class].

    >>> top_k(np.array([[0.2, 0.9, 0.2]]), 2).tolist()
    [[True, True, False]]
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen


def constant_predictor(
    frequencies: Float[np.ndarray, " class"], images: int
) -> Float[np.ndarray, "image class"]:
    """Returns the baseline that every model must beat: the class frequencies for every image.

    Args:
        frequencies: float [class], of the training labels.
        images: number of images.

    Returns:
        Float [image, class], read-only.

    >>> constant_predictor(np.array([0.5, 0.25]), 2).tolist()
    [[0.5, 0.25], [0.5, 0.25]]
    """
    return np.broadcast_to(frequencies, (images, len(frequencies)))


def decision_values(
    labels: Int8[np.ndarray, "image class"],
    predicted: Bool[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
) -> dict[str, float]:
    """Returns precision, recall and F1 of predicted classes: CP, CR, CF1, OP, OR and OF1.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        predicted: bool [image, class], True where the class is predicted present.
        included: bool [class], the classes to include.

    Returns:
        The metrics that the module's docstring spells out, by name. The precision of a class that
        is never predicted is 0, and so is the recall of one without positives.

    >>> labels = np.array([[1, 0], [1, 1], [0, 0]], np.int8)
    >>> predicted = np.array([[True, True], [False, True], [False, False]])
    >>> decision_values(labels, predicted, np.array([True, True]))["CP"]  # mean of 1 and 1/2
    0.75
    """
    labels, predicted = labels[:, included], predicted[:, included]
    positive, predicted = labels == 1, predicted & (labels != UNKNOWN)
    true = (positive & predicted).sum(axis=0)
    cp = mean_or_nan(true / np.maximum(predicted.sum(axis=0), 1))
    cr = mean_or_nan(true / np.maximum(positive.sum(axis=0), 1))
    op = true.sum() / max(predicted.sum(), 1)
    or_ = true.sum() / max(positive.sum(), 1)
    values = {"CP": cp, "CR": cr, "CF1": _f1(cp, cr), "OP": op, "OR": or_, "OF1": _f1(op, or_)}
    return {name: float(value) for name, value in values.items()}


def mean_or_nan(values: np.ndarray) -> float:
    """Returns the mean of an array; NaN if it is empty."""
    return float(values.mean()) if values.size else float("nan")


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def finite_or_none(values: dict[str, float]) -> dict[str, float | None]:
    """Returns the values with None in place of NaN and infinities, which JSON cannot hold.

    >>> finite_or_none({"mAP": 0.5, "loss": float("nan")})
    {'mAP': 0.5, 'loss': None}
    """
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
