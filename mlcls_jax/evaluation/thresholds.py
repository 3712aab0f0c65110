"""Decision thresholds per class, tuned by sorting the scores of each class once.

A class is predicted present when its score reaches its threshold. Candidate thresholds lie midway
between consecutive scores, because no image tells which score between them is better; the lowest
candidate, -inf, predicts the class for every image.

Callers outside this package use `fit_decision_rule` in decision_rule.py.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

from mlcls_jax.data.label_table import UNKNOWN

DEFAULT_LOGIT = 0.0  # a probability of 0.5; used when no class has a positive


@dataclass(frozen=True)
class Tuned:
    """Thresholds per class, for logits.

    Attributes:
        thresholds: float64 [class]; -inf if the class is predicted for every image.
        pooled: bool [class], True if the threshold is the shared one, tuned on all included
            classes together.
        unreached_classes: bool [class], True if no threshold reaches the target precision.
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
    """Returns a threshold for each class.

    A threshold tuned on a handful of positives fits these rather than the class. A class with fewer
    than `minimum` positives therefore takes a shared threshold, tuned on the pooled scores of all
    included classes.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN; unknown labels have no influence.
        logits: float [image, class], finite; any scores that are comparable between classes.
        included_classes: bool [class], False for classes to exclude from pooling.
        goal: "f1", "precision" or "recall"; see `tune_one`.
        target: the precision or recall to reach; see `tune_one`.
        minimum: positives that a class needs for its own threshold, at least 1.

    >>> labels = np.array([[1, 1], [0, 0], [0, 1]], np.int8)
    >>> logits = np.array([[2.0, 3.0], [1.0, 1.0], [0.0, 2.0]])
    >>> tune(labels, logits, np.array([True, True]), "f1", 0.9, minimum=1).thresholds.tolist()
    [1.5, 1.5]
    """
    positives = (labels == 1).sum(axis=0)
    pooled = positives < minimum
    thresholds = np.full(labels.shape[1], DEFAULT_LOGIT)
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
    """Returns the threshold of one class, and whether it reaches the target.

    Args:
        positive: bool [n], the labels; at least one is True.
        scores: float [n], finite.
        goal: "f1" takes the highest F1, and the highest threshold among equal ones. "recall" takes
            the highest threshold with a recall of at least `target`. "precision" takes the lowest
            threshold with a precision of at least `target`, or, if there is none, the one with the
            highest precision.
        target: in (0, 1]; ignored for "f1".

    Returns:
        The threshold, and False only if the precision `target` is out of reach.

    >>> positive = np.array([True, True, False, True])
    >>> scores = np.array([4.0, 3.0, 2.0, 1.0])
    >>> tune_one(positive, scores, "precision", 0.9)
    (2.5, True)
    >>> tune_one(positive, scores, "recall", 1.0)
    (-inf, True)
    """
    order = np.argsort(-scores)  # not stable, which is twice as fast: ties are counted together
    scores = scores[order].astype(np.float64)
    ends_tie = np.append(scores[:-1] > scores[1:], True)  # the last one of equal scores
    true = np.cumsum(positive[order])[ends_tie]
    taken = np.flatnonzero(ends_tie) + 1
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
    levels = np.append(scores[ends_tie], -np.inf)
    return float((levels[best] + levels[best + 1]) / 2), reached
