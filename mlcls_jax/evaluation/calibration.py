"""Temperature scaling, which calibrates probabilities, and the expected calibration error.

A temperature divides the logits (Guo et al., arXiv:1706.04599). It never reorders the images of a
class, and a logit of 0 stays a probability of 0.5.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int8
from scipy.special import expit

from mlcls_jax.data.label_table import UNKNOWN

BINS = 15  # as in Guo et al.
# The lowest temperature is 1 / MAX_TEMPERATURE. Labels that the scores separate perfectly have no
# best temperature, so the search needs bounds.
MAX_TEMPERATURE = 10.0


def fit_temperatures(
    labels: Int8[np.ndarray, "image class"],
    logits: Float[np.ndarray, "image class"],
    included_classes: Bool[np.ndarray, " class"],
    minimum: int,
    per_class: bool,
) -> Float[np.ndarray, " class"]:
    """Returns the temperatures with the lowest cross-entropy.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN; unknown labels have no influence.
        logits: float [image, class], finite.
        included_classes: bool [class], the classes that the shared temperature is fitted on.
        minimum: positives that a class needs for its own temperature.
        per_class: whether each class has its own temperature; classes with too few positives take
            the shared one. If False, all classes take the shared one.

    Returns:
        Float64 [class], in [1 / MAX_TEMPERATURE, MAX_TEMPERATURE].
    """
    known = (labels != UNKNOWN) & included_classes
    result = np.full(labels.shape[1], fit_temperature(labels[known] == 1, logits[known]))
    if per_class:
        for c in np.flatnonzero((labels == 1).sum(axis=0) >= minimum):
            known = labels[:, c] != UNKNOWN
            result[c] = fit_temperature(labels[known, c] == 1, logits[known, c])
    return result


def fit_temperature(positive: Bool[np.ndarray, " n"], logits: Float[np.ndarray, " n"]) -> float:
    """Returns the temperature with the lowest cross-entropy; 1 if all labels are the same.

    The cross-entropy is convex in 1 / temperature, so it is lowest where its slope is zero.

    Args:
        positive: bool [n], the labels.
        logits: float [n], finite.

    Returns:
        A temperature in [1 / MAX_TEMPERATURE, MAX_TEMPERATURE].

    A logit of 4 means 98 %, but three in four of these are positive, which is a logit of log 3:

    >>> positive, logits = np.array([True, True, True, False]), np.full(4, 4.0)
    >>> round(fit_temperature(positive, logits), 3), round(4 / math.log(3), 3)
    (3.641, 3.641)
    """
    from scipy.optimize import root_scalar  # imported late: takes half a second

    if positive.all() or not positive.any():
        return 1.0
    logits = logits.astype(np.float64)

    def slope(log_inverse: float) -> float:
        return float(((expit(logits * math.exp(log_inverse)) - positive) * logits).sum())

    lowest, highest = -math.log(MAX_TEMPERATURE), math.log(MAX_TEMPERATURE)
    if slope(lowest) >= 0:
        return MAX_TEMPERATURE
    if slope(highest) <= 0:
        return 1 / MAX_TEMPERATURE
    # Four digits suffice: the images do not determine more.
    root = root_scalar(slope, bracket=(lowest, highest), method="brentq", xtol=1e-5).root
    return math.exp(-root)


def calibration_error(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> float:
    """Returns the expected calibration error over all known labels; NaN if none is known.

    The pairs of image and class fall into 15 bins of equal width by their probability. The error of
    a bin is the absolute difference between its mean probability and its share of positives; the
    result is the mean over the bins, weighted by their sizes (Guo et al., arXiv:1706.04599).

    Most pairs are absent classes with probabilities near 0, so the figure is small if classes are
    rare. Compare it only between models on the same data.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        probabilities: float [image, class], in [0, 1].

    >>> labels = np.array([[1], [0], [1], [1]], np.int8)
    >>> calibration_error(labels, np.full((4, 1), 0.75))
    0.0
    >>> calibration_error(labels, np.full((4, 1), 0.25))
    0.5
    """
    known = labels != UNKNOWN
    if not known.any():
        return float("nan")
    probabilities, positive = probabilities[known], labels[known] == 1
    bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    differences = np.bincount(bins, weights=probabilities - positive, minlength=BINS)
    return float(np.abs(differences).sum() / len(probabilities))
