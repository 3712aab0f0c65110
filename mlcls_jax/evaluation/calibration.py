"""Probabilities that say how often the class is there: temperature scaling, and its measure.

A temperature divides the logits (Guo et al., arXiv:1706.04599).  It never reorders the images of
a class, and a logit of 0 stays a probability of one half.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int8
from scipy.optimize import root_scalar
from scipy.special import expit

from mlcls_jax.data.label_table import UNKNOWN

BINS = 15  # as in Guo et al.
HIGHEST = 10.0  # and its inverse the lowest: labels that scores separate have no best temperature


def fit_temperatures(
    labels: Int8[np.ndarray, "image class"],
    logits: Float[np.ndarray, "image class"],
    included_classes: Bool[np.ndarray, " class"],
    minimum: int,
    per_class: bool,
) -> Float[np.ndarray, " class"]:
    """The temperatures with the lowest cross-entropy on the images given.

    Args:
        labels: 1, 0 or UNKNOWN, which has no influence.
        logits: finite.
        included_classes: classes that the one temperature of all is fitted on.
        minimum: positives that a class needs for a temperature of its own.
        per_class: whether classes have their own; those with fewer positives take the one of all.

    Returns:
        Float64 [class], in [1 / HIGHEST, HIGHEST].
    """
    known = (labels != UNKNOWN) & included_classes
    result = np.full(labels.shape[1], fit_temperature(labels[known] == 1, logits[known]))
    if per_class:
        for c in np.flatnonzero((labels == 1).sum(axis=0) >= minimum):
            known = labels[:, c] != UNKNOWN
            result[c] = fit_temperature(labels[known, c] == 1, logits[known, c])
    return result


def fit_temperature(positive: Bool[np.ndarray, " n"], logits: Float[np.ndarray, " n"]) -> float:
    """The temperature with the lowest cross-entropy; 1 where all labels are the same.

    The cross-entropy is convex in 1 / temperature, so that the zero of its slope is the minimum.
    """
    if positive.all() or not positive.any():
        return 1.0
    logits = logits.astype(np.float64)

    def slope(log_inverse: float) -> float:
        return float(((expit(logits * math.exp(log_inverse)) - positive) * logits).sum())

    lowest, highest = -math.log(HIGHEST), math.log(HIGHEST)
    if slope(lowest) >= 0:
        return HIGHEST
    if slope(highest) <= 0:
        return 1 / HIGHEST
    # Four digits: the images determine fewer.
    root = root_scalar(slope, bracket=(lowest, highest), method="brentq", xtol=1e-5).root
    return math.exp(-root)


def calibration_error(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> float:
    """Expected calibration error over all known labels; NaN where there is none.

    The pairs of image and class fall into 15 bins of equal width by their probability; in each,
    the mean probability is compared with the share of positives; the mean of the absolute
    differences, weighted by the bins' sizes.  Bins of equal width are those of the literature;
    most pairs are absences near 0, so that the figure is small where classes are rare: compare it
    between models of the same data only.
    """
    known = labels != UNKNOWN
    if not known.any():
        return float("nan")
    probabilities, positive = probabilities[known], labels[known] == 1
    bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    differences = np.bincount(bins, weights=probabilities - positive, minlength=BINS)
    return float(np.abs(differences).sum() / len(probabilities))
