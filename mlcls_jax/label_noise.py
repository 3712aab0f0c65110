"""Labels that may be wrong: confident learning, for one class against the rest at a time.

Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels",
arXiv:1911.00068.  The probabilities have to be of pictures that the model was not trained on.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8

from mlcls_jax.data.labels import UNKNOWN

LEAST_POSITIVES = 5  # a mean over fewer says little
# Mean probability of positives less that of negatives, Tjur's coefficient of discrimination
# (2009): below it, the model does not know the class.
KNOWN = 0.3


@dataclass(frozen=True)
class Suspect:
    """A label that the model contradicts with as much confidence as it has where it is right.

    row, column: of the picture and of the class.
    label: 1 or 0, as given.
    probability: of the class.
    """

    row: int
    column: int
    label: int
    probability: float


def suspects(
    labels: Int8[np.ndarray, "picture class"], probabilities: Float[np.ndarray, "picture class"]
) -> list[Suspect]:
    """Labels off the diagonal of the confident joint, those that are contradicted most first.

    A label counts as the other one where the probability of the other one reaches the mean that it
    has on the pictures labelled so (the thresholds t_j of the paper, equation 2), and that of its
    own does not reach its mean.  Classes with few positives, or that the model does not know,
    have no suspects.

    Args:
        labels: 1, 0 or UNKNOWN.
        probabilities: out of sample.
    """
    found = []
    for column in range(labels.shape[1]):
        label, p = labels[:, column], probabilities[:, column].astype(np.float64)
        positive, negative = label == 1, label == 0
        if positive.sum() < LEAST_POSITIVES or not negative.any():
            continue
        there, absent = p[positive].mean(), (1 - p[negative]).mean()
        if there + absent - 1 < KNOWN:
            continue
        as_there, as_absent = p >= there, 1 - p >= absent
        wrong = (label != UNKNOWN) & np.where(
            positive, as_absent & ~as_there, as_there & ~as_absent
        )
        for row in np.flatnonzero(wrong):
            found.append(Suspect(int(row), column, int(label[row]), float(p[row])))
    return sorted(found, key=lambda one: -abs(one.label - one.probability))
