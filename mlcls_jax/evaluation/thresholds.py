"""From which score on a class is said to be there: tuned per class, by sorting its scores once.

Candidates lie midway between consecutive scores, as no image tells which score between them
would be better; the lowest candidate takes every image.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

from mlcls_jax.data.label_table import UNKNOWN

NOTHING_KNOWN = 0.0  # the logit of one half


@dataclass(frozen=True)
class Tuned:
    """A threshold per class, of logits.

    thresholds: float64 [class]; -inf where every image is taken.
    pooled: bool [class], True where the threshold is the one of all classes together.
    unreached_classes: bool [class], True where no threshold reaches the target precision.
    """

    thresholds: Float[np.ndarray, " class"]
    pooled: Bool[np.ndarray, " class"]
    unreached_classes: Bool[np.ndarray, " class"]


def tune(
    labels: Int8[np.ndarray, "image class"],
    logits: Float[np.ndarray, "image class"],
    included_classes: Bool[np.ndarray, " class"],
    goal: str,
    target: float,
    minimum: int,
) -> Tuned:
    """Thresholds for each class on the images given.

    A threshold tuned on a handful of positives says more of these than of the class, so a class
    with fewer than `minimum` takes the threshold that is tuned on the pooled images of all
    counted classes.

    Args:
        labels: 1, 0 or UNKNOWN, which has no influence.
        logits: or any other scores that can be compared between the classes.
        included_classes: False for classes that are not to be pooled.
        goal, target: see `tune_one`.
        minimum: positives that a class needs for a threshold of its own, at least 1.
    """
    positives = (labels == 1).sum(axis=0)
    pooled = positives < minimum
    thresholds = np.full(labels.shape[1], NOTHING_KNOWN)
    unreached_classes = np.zeros(labels.shape[1], bool)
    for c in np.flatnonzero(~pooled):
        known = labels[:, c] != UNKNOWN
        thresholds[c], reached = tune_one(labels[known, c] == 1, logits[known, c], goal, target)
        unreached_classes[c] = not reached
    if pooled.any() and positives[included_classes].any():
        known = (labels != UNKNOWN) & included_classes
        thresholds[pooled], reached = tune_one(labels[known] == 1, logits[known], goal, target)
        unreached_classes[pooled] = not reached
    return Tuned(thresholds, pooled, unreached_classes)


def tune_one(
    positive: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"], goal: str, target: float
) -> tuple[float, bool]:
    """The threshold of one class, and whether the target is reached.

    Args:
        positive: at least one is True.
        scores: finite.
        goal: "f1": the highest F1, of equal ones the highest threshold.  "recall": the highest
            threshold whose recall is at least `target`.  "precision": the lowest whose precision
            is; where there is none, the one with the highest precision.
        target: in (0, 1].
    """
    order = np.argsort(-scores)  # not stable, which is twice as fast: equal scores count together
    scores = scores[order].astype(np.float64)
    last = np.append(scores[:-1] > scores[1:], True)  # of the equal scores
    true = np.cumsum(positive[order])[last]
    taken = np.flatnonzero(last) + 1
    precision, recall = true / taken, true / true[-1]
    reached = True
    if goal == "f1":
        best = int(np.argmax(2 * true / (taken + true[-1])))
    elif goal == "recall":
        best = int(np.argmax(recall >= target))
    else:
        enough = np.flatnonzero(precision >= target)
        reached = bool(len(enough))
        best = int(enough[-1] if reached else np.argmax(precision))
    levels = np.append(scores[last], -np.inf)
    return float((levels[best] + levels[best + 1]) / 2), reached
