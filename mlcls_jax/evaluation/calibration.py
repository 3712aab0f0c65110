"""Temperature scaling, which calibrates probabilities, and the expected calibration error.

A temperature divides the logits (Guo et al., arXiv:1706.04599). It never reorders the images of a
class, and a logit of 0 stays a probability of 0.5.

Few labels say little about the temperature, and those that the scores separate would ask for
probabilities of 0 and 1. So the fit is regularised: without other evidence, the temperature is 1.
"""

import numpy as np
from jaxtyping import Bool, Float, Real
from scipy.special import expit

from mlcls_jax.data.label_table import PRESENT, UNKNOWN

BINS = 15  # as in Guo et al.
# Standard deviation of 1 / temperature around 1, before any label is seen.
DEVIATION = 0.5
# The lowest temperature is 1 / MAX_TEMPERATURE. Scores that are worse than chance have no best
# temperature, so the search needs bounds.
MAX_TEMPERATURE = 10.0


def fit_temperatures(
    labels: Real[np.ndarray, "image class"],
    logits: Float[np.ndarray, "image class"],
    included_classes: Bool[np.ndarray, " class"],
    minimum: int,
    per_class: bool,
) -> Float[np.ndarray, " class"]:
    """Returns the temperatures of all classes; see `fit_temperature`.

    Args:
        labels: int8 or float32 [image, class], each UNKNOWN, 1, 0, or a soft label between them;
            unknown labels have no influence.
        logits: float [image, class], finite.
        included_classes: bool [class], the classes that the shared temperature is fitted on.
        minimum: positives that a class needs for its own temperature.
        per_class: whether each class has its own temperature; classes with too few positives take
            the shared one. If False, all classes take the shared one.

    Returns:
        Float64 [class], in [1 / MAX_TEMPERATURE, MAX_TEMPERATURE].
    """
    known = (labels != UNKNOWN) & included_classes
    result = np.full(labels.shape[1], fit_temperature(labels[known], logits[known]))
    if per_class:
        for c in np.flatnonzero((labels >= PRESENT).sum(axis=0) >= minimum):
            known = labels[:, c] != UNKNOWN
            result[c] = fit_temperature(labels[known, c], logits[known, c])
    return result


def fit_temperature(labels: Real[np.ndarray, " n"], logits: Float[np.ndarray, " n"]) -> float:
    """Returns the most probable temperature, with a normal prior around 1 of its inverse.

    The sum of the cross-entropies and (1 / temperature - 1)² / (2 DEVIATION²) is convex in
    1 / temperature, so it is lowest where its slope is zero.

    Args:
        labels: int or float [n], each 1, 0, or a soft label between them.
        logits: float [n], finite.

    Returns:
        A temperature in [1 / MAX_TEMPERATURE, MAX_TEMPERATURE].

    A logit of 4 means 98 %, but three in four of these are positive, which is a logit of log 3:

    >>> labels, logits = np.tile([1, 1, 1, 0], 1000), np.full(4000, 4.0)
    >>> round(fit_temperature(labels, logits), 2), round(4 / float(np.log(3)), 2)
    (3.64, 3.64)
    """
    from scipy.optimize import root_scalar  # imported late: takes half a second

    labels, logits = labels.astype(np.float64), logits.astype(np.float64)

    def slope(inverse: float) -> float:
        of_labels = ((expit(logits * inverse) - labels) * logits).sum()
        return float(of_labels + (inverse - 1) / DEVIATION**2)

    lowest, highest = 1 / MAX_TEMPERATURE, MAX_TEMPERATURE
    if slope(lowest) >= 0:
        return MAX_TEMPERATURE
    if slope(highest) <= 0:
        return 1 / MAX_TEMPERATURE
    # Four digits suffice: the images do not determine more.
    return 1 / root_scalar(slope, bracket=(lowest, highest), method="brentq", xtol=1e-6).root


def calibration_error(
    labels: Real[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> float:
    """Returns the expected calibration error over all known labels; NaN if none is known.

    The pairs of image and class fall into 15 bins of equal width by their probability. The error of
    a bin is the absolute difference between its mean probability and its mean label; the
    result is the mean over the bins, weighted by their sizes (Guo et al., arXiv:1706.04599).

    Most pairs are absent classes with probabilities near 0, so the figure is small if classes are
    rare. Compare it only between models on the same data.

    Args:
        labels: int8 or float32 [image, class], each UNKNOWN, 1, 0, or a soft label between them.
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
    probabilities = probabilities[known]
    bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    differences = np.bincount(bins, weights=probabilities - labels[known], minlength=BINS)
    return float(np.abs(differences).sum() / len(probabilities))
