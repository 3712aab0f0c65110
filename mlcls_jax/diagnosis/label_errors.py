"""Labels that may be wrong, found among predictions of images that were not trained on.

A model contradicts two kinds of labels: wrong ones, and right ones of images that are hard for it.
How many are wrong is told by ranks.  An image that is labelled with a class without showing it is
like an image without the class: its rank among these is uniform.  A hard image that shows the class
still ranks above most of them.  So among the images labelled present, the share of wrong labels is
the height at which the histogram of the ranks becomes flat (Storey 2002, "A direct approach to
false discovery rates").  The same holds for labels of 0 among the images labelled present.

Which ones are wrong follows by Bayes' rule from the two shares and from the probability that an
image with such a score is labelled present, a logistic regression per class (Platt 1999,
"Probabilistic outputs for support vector machines").  The noise model is that of Natarajan et al.
2013, "Learning with noisy labels": each class has wrong labels at random, at one rate for images
that show it and at another for those that do not.

Confident learning (arXiv:1911.00068) counts all labels that are contradicted as confidently as the
others are confirmed.  On data with right labels it therefore counts the hard images.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

from mlcls_jax.data.label_table import UNKNOWN

# Wrong labels of 1, and of 0, as a share of the positives; below it, none are listed.  Classes that
# look alike make some labels of 0 look wrong on data with right labels.
NOISE = (0.02, 0.04)
PROBABLE = 0.5  # probability that a label is wrong; from it on, it is no reference for others
LISTED = 0.05  # the same; from it on, the label is listed
MIN_POSITIVES = 20  # of a class: the ranks among fewer images are too coarse
KNOWN = 0.8  # AUROC of a class; below it, ranks say little, and the class is not counted
CHECKED = 0.7  # the same, to list labels of the class
CONFIDENCE = 0.95  # of the lower bound for the number of wrong labels
FLAT = (0.5, 0.6, 0.7, 0.8, 0.9)  # ranks above which the histogram should be flat
ROUNDS = 3  # labels found to be wrong are left out of the references of the next round
RIDGE = 100.0  # C of the logistic regressions, for classes that the scores separate completely
SURE = 1e-7  # probabilities are at least this far from 0 and 1


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
        probabilities: float [image, class], predicted for the same images.
    """
    present = labelled_present(labels, probabilities)
    doubted = np.zeros(labels.shape, bool)
    wrong = np.zeros(labels.shape)
    estimate = ErrorEstimate(0, 0.0, 0.0, 0)
    for _ in range(ROUNDS):
        aurocs = _aurocs(labels, scores, doubted)
        known, counts, bounds = aurocs >= KNOWN, [], []
        for value in (1, 0):
            cells = (labels == value) & known
            ranks = _ranks(labels, scores, cells, (labels == 1 - value) & ~doubted, value)
            share, lower = flat_share(ranks)
            counts.append(share * len(ranks))
            bounds.append(lower * len(ranks))
        positives, negatives = (int((labels == v)[:, known].sum()) for v in (1, 0))
        estimate = ErrorEstimate(positives, bounds[0], bounds[1], int(known.sum()))
        rates = noise_rates(positives, negatives, *counts)
        wrong = np.where(aurocs >= CHECKED, wrong_given(labels, present, *rates), 0.0)
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


def _aurocs(labels: np.ndarray, scores: np.ndarray, doubted: np.ndarray) -> np.ndarray:
    """Returns the AUROC of each class without doubted labels; 0 if too few are left."""
    present, absent = (labels == 1) & ~doubted, (labels == 0) & ~doubted
    enough = (present.sum(axis=0) >= MIN_POSITIVES) & (absent.sum(axis=0) >= MIN_POSITIVES)
    aurocs = np.zeros(labels.shape[1])
    for column in np.flatnonzero(enough):
        reference = np.sort(scores[absent[:, column], column])
        above = _shares_above(reference, scores[present[:, column], column])
        aurocs[column] = 1 - above.mean()
    return aurocs


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

    The share is Storey's estimate from the ranks above a cut: the least over several cuts, because
    the other ranks may reach beyond a cut.

    >>> round(flat_share((np.arange(1000) + 0.5) / 1000)[0], 6)
    1.0
    """
    from scipy.stats import gamma

    if not len(ranks):
        return 0.0, 0.0
    counts = [(int((ranks > cut).sum()), (1 - cut) * len(ranks)) for cut in FLAT]
    share = min(count / whole for count, whole in counts)
    bounds = [
        float(gamma.ppf(1 - CONFIDENCE, count)) / whole if count else 0.0 for count, whole in counts
    ]
    return min(share, 1.0), min(*bounds, 1.0)


def labelled_present(
    labels: Int8[np.ndarray, "image class"], probabilities: Float[np.ndarray, "image class"]
) -> Float[np.ndarray, "image class"]:
    """Returns the probability that an image with such a prediction is labelled with a class.

    It differs from the prediction, because a model that was trained on wrong labels is sure of some
    of them.  It is 0 for classes with fewer than MIN_POSITIVES labels of 1 or of 0.

    Args:
        labels: int8 [image, class]: 1, 0 or UNKNOWN.
        probabilities: float [image, class], predicted.
    """
    from sklearn.linear_model import LogisticRegression  # imported late: takes most of a second

    clipped = np.clip(probabilities.astype(np.float64), SURE, 1 - SURE)
    logits, present = np.log(clipped / (1 - clipped)), np.zeros(labels.shape)
    for column in range(labels.shape[1]):
        known = labels[:, column] != UNKNOWN
        count = int((labels[:, column] == 1).sum())
        if min(count, int(known.sum()) - count) < MIN_POSITIVES:
            continue
        fit = LogisticRegression(C=RIDGE, solver="newton-cholesky")
        fit.fit(logits[known][:, [column]], labels[known, column])
        present[:, column] = fit.predict_proba(logits[:, [column]])[:, 1]
    return present


def noise_rates(
    positives: int, negatives: int, wrong_present: float, wrong_absent: float
) -> tuple[float, float]:
    """Returns the shares of wrong labels where the class is absent, and where it is present.

    Args:
        positives, negatives: numbers of labels of 1 and of 0.
        wrong_present, wrong_absent: how many of each are wrong.

    >>> noise_rates(positives=23, negatives=77, wrong_present=4, wrong_absent=1)
    (0.05, 0.05)
    """
    absent = negatives - wrong_absent + wrong_present
    present = positives - wrong_present + wrong_absent
    return wrong_present / max(absent, 1), wrong_absent / max(present, 1)


def wrong_given(
    labels: Int8[np.ndarray, "image class"],
    present: Float[np.ndarray, "image class"],
    false_present: float,
    false_absent: float,
) -> Float[np.ndarray, "image class"]:
    """Returns the probability that each label is wrong; 0 for unknown ones.

    Args:
        labels: int8 [image, class]: 1, 0 or UNKNOWN.
        present: see `labelled_present`.
        false_present, false_absent: see `noise_rates`.

    >>> wrong_given(np.int8([[1, 0]]), np.array([[0.5, 0.5]]), 0.1, 0.1).tolist()
    [[0.1, 0.1]]
    """
    # The images that show the class, of those with such a prediction.
    spread = max(1 - false_present - false_absent, SURE)
    shown = np.clip((present - false_present) / spread, 0, 1)
    of_present = (1 - shown) * false_present / np.maximum(present, SURE)
    of_absent = shown * false_absent / np.maximum(1 - present, SURE)
    wrong = np.where(labels == 1, of_present, of_absent)
    return np.where(labels == UNKNOWN, 0.0, np.minimum(wrong, 1.0))
