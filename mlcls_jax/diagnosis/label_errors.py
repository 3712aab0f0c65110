"""Labels that may be wrong, found among predictions of images that were not trained on.

A model contradicts two kinds of labels: wrong ones, and right ones of images that are hard for it.
A probability cannot tell them apart, but ranks can.  An image that is labelled with a class without
showing it is like an image without the class: its rank among these is uniform.  A hard image that
shows the class still ranks above most of them.  So among the images labelled present, the share of
wrong labels is the height at which the histogram of the ranks becomes flat (Storey 2002, "A direct
approach to false discovery rates").  The probability that one label is wrong is this height divided
by that of the histogram at its rank: the local false discovery rate, estimated with a decreasing
density (Grenander 1956; Strimmer 2008, "A unified approach to false discovery rate estimation").
The same holds for labels of 0 among the images labelled present.

Confident learning (arXiv:1911.00068) counts all labels that are contradicted as confidently as the
others are confirmed.  On data with right labels it therefore counts the hard images.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

# Wrong labels of 1, and of 0, as a share of the positives; below it, none are listed.  Classes that
# look alike make some labels of 0 look wrong on data with right labels.
NOISE = (0.02, 0.04)
PROBABLE = 0.5  # probability that a label is wrong; from it on, it is no reference for others
LISTED = 0.2  # the same; from it on, the label is listed
MIN_POSITIVES = 20  # of a class: the ranks among fewer images are too coarse
KNOWN = 0.8  # AUROC of a class; below it, ranks say little about one image
CONFIDENCE = 0.95  # of the lower bound for the number of wrong labels
FLAT = (0.5, 0.6, 0.7, 0.8, 0.9)  # ranks above which the histogram should be flat
ROUNDS = 3  # labels found to be wrong are left out of the references of the next round


@dataclass(frozen=True)
class Suspect:
    """A label that may be wrong.

    Attributes:
        row, column: of the image and of the class.
        label: 1 or 0, as given.
        probability: predicted probability of the class.
        wrong: probability that the label is wrong.
    """

    row: int
    column: int
    label: int
    probability: float
    wrong: float


@dataclass(frozen=True)
class ErrorEstimate:
    """How many labels of each kind are wrong; at least as many with 95 % confidence.

    Attributes:
        positives: labels of 1 in the classes that were checked.
        wrong_present: labels of 1 that are wrong.
        wrong_absent: labels of 0 that are wrong.
        classes: number of classes that were checked.
    """

    positives: int
    wrong_present: float
    wrong_absent: float
    classes: int

    @property
    def found(self) -> tuple[bool, bool]:
        """Whether labels of 1, and labels of 0, are wrong beyond NOISE."""
        present, absent = (share * max(self.positives, 1) for share in NOISE)
        return self.wrong_present >= present, self.wrong_absent >= absent


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """The labels that may be wrong, the most probable first, and how many there should be."""

    suspects: list[Suspect]
    estimate: ErrorEstimate


def label_errors(
    labels: Int8[np.ndarray, "image class"],
    scores: Float[np.ndarray, "image class"],
    probabilities: Float[np.ndarray, "image class"],
) -> LabelErrors:
    """Returns the labels that may be wrong, each with the probability that it is.

    None are returned if so few labels are contradicted that hard images explain them.

    Args:
        labels: int8 [image, class]: 1, 0 or UNKNOWN.
        scores: float [image, class], of images that the model was not trained on; only their order
            within a class matters.
        probabilities: float [image, class], of the same images, for the result.
    """
    doubted = np.zeros(labels.shape, bool)
    wrong = np.zeros(labels.shape)
    estimate = ErrorEstimate(0, 0.0, 0.0, 0)
    for _ in range(ROUNDS):
        checked = _checked_classes(labels, scores, doubted)
        wrong, bounds = np.zeros(labels.shape), []
        for value in (1, 0):
            cells = (labels == value) & checked
            ranks = _ranks(labels, scores, cells, (labels == 1 - value) & ~doubted, value)
            share, lower = flat_share(ranks)
            bounds.append(lower * len(ranks))
            wrong[cells] = local_rates(ranks, share)
        positives = int((labels == 1)[:, checked].sum())
        estimate = ErrorEstimate(positives, bounds[0], bounds[1], int(checked.sum()))
        doubted = wrong >= PROBABLE
    listed = (wrong >= LISTED) & any(estimate.found)
    suspects = [
        Suspect(
            int(row),
            int(column),
            int(labels[row, column]),
            float(probabilities[row, column]),
            float(wrong[row, column]),
        )
        for row, column in np.argwhere(listed)
    ]
    suspects.sort(key=lambda one: (-one.wrong, -abs(one.label - one.probability)))
    return LabelErrors(suspects, estimate)


def _checked_classes(labels: np.ndarray, scores: np.ndarray, doubted: np.ndarray) -> np.ndarray:
    """Returns the classes with enough labels that the model knows: bool [class]."""
    present, absent = (labels == 1) & ~doubted, (labels == 0) & ~doubted
    enough = (present.sum(axis=0) >= MIN_POSITIVES) & (absent.sum(axis=0) >= MIN_POSITIVES)
    for column in np.flatnonzero(enough):
        reference = np.sort(scores[absent[:, column], column])
        enough[column] = (
            1 - _shares_above(reference, scores[present[:, column], column]).mean() >= KNOWN
        )
    return enough


def _ranks(
    labels: np.ndarray,
    scores: np.ndarray,
    cells: Bool[np.ndarray, "image class"],
    reference: Bool[np.ndarray, "image class"],
    value: int,
) -> Float[np.ndarray, " cell"]:
    """Returns for each cell the share of the references of its class that look more like `value`.

    It is near 0 for an image that looks like its label, and uniform for one that looks like the
    references.
    """
    sign = 1 if value else -1
    ranks = np.zeros(labels.shape)
    for column in np.flatnonzero(cells.any(axis=0)):
        others = np.sort(sign * scores[reference[:, column], column])
        own = cells[:, column]
        ranks[own, column] = _shares_above(others, sign * scores[own, column])
    return ranks[cells]


def _shares_above(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the share of ordered numbers above each value; equal ones count half."""
    above = len(ordered) - np.searchsorted(ordered, values, side="right")
    not_below = len(ordered) - np.searchsorted(ordered, values, side="left")
    return (above + not_below) / (2 * len(ordered))


def flat_share(ranks: Float[np.ndarray, " cell"]) -> tuple[float, float]:
    """Returns the share of uniform ranks among others that are closer to 0, and a lower bound.

    The share is Storey's estimate from the upper half of the ranks.  The bound is the least over
    several cuts, because the other ranks may reach beyond a cut.

    >>> flat_share((np.arange(1000) + 0.5) / 1000)[0]
    1.0
    """
    from scipy.stats import gamma

    if not len(ranks):
        return 0.0, 0.0
    counts = [(int((ranks > cut).sum()), (1 - cut) * len(ranks)) for cut in FLAT]
    share = counts[0][0] / counts[0][1]
    bounds = [
        float(gamma.ppf(1 - CONFIDENCE, count)) / whole if count else 0.0 for count, whole in counts
    ]
    return min(share, 1.0), min(*bounds, 1.0)


def local_rates(ranks: Float[np.ndarray, " cell"], share: float) -> Float[np.ndarray, " cell"]:
    """Returns the probability of each rank to be one of the uniform ones.

    Args:
        ranks: in [0, 1].
        share: of the uniform ones; see `flat_share`.
    """
    if not len(ranks) or not share:
        return np.zeros(len(ranks))
    points, counts = np.unique(ranks, return_counts=True)
    x = np.concatenate([[0.0], points, [1.0]])
    y = np.concatenate([[0.0], np.cumsum(counts), [len(ranks)]]) / len(ranks)
    hull = _upper_hull(x, y)
    slopes = np.diff(y[hull]) / np.maximum(np.diff(x[hull]), 1e-12)
    segment = np.clip(np.searchsorted(x[hull], ranks, side="left") - 1, 0, len(slopes) - 1)
    return np.minimum(share / np.maximum(slopes[segment], share), 1.0)


def _upper_hull(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Returns the points of the least concave majorant of points with increasing x."""
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[i] - x[a]) > (y[i] - y[a]) * (x[b] - x[a]):
                break
            hull.pop()
        if hull and x[hull[-1]] == x[i]:
            hull.pop()
        hull.append(i)
    return hull
