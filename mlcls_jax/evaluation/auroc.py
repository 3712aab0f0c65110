"""Area under the ROC curve (AUROC) of multi-label scores; unknown labels are left out.

The AUROC of a class is the probability that a positive image scores higher than a negative one, a
tie counting one half (Hanley and McNeil, 1982). It equals scikit-learn's `roc_auc_score` on the
images with a known label of the class. Unlike average precision, it does not depend on how frequent
the class is, and is 0.5 for any constant score.
"""

import numpy as np
from jaxtyping import Bool, Float, Int8

from mlcls_jax.data.label_table import UNKNOWN


def class_aurocs(
    labels: Int8[np.ndarray, "image class"],
    scores: Float[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
) -> Float[np.ndarray, " class"]:
    """Returns the AUROC of each class over its known labels, as scikit-learn's `roc_auc_score`.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        scores: float [image, class]; only their order within a class matters.
        included: bool [class], the classes to compute.

    Returns:
        Float64 [class]; NaN for classes that are not included, and for classes without a positive
        or without a negative among their known labels.

    >>> labels = np.array([[1, 1], [0, 1], [0, 1], [-1, 1]], np.int8)
    >>> scores = np.array([[0.5, 0.1], [0.9, 0.2], [0.4, 0.3], [0.7, 0.4]])
    >>> class_aurocs(labels, scores, np.array([True, True])).tolist()
    [0.5, nan]
    """
    result = np.full(labels.shape[1], np.nan)
    for c in np.flatnonzero(included):
        known = labels[:, c] != UNKNOWN
        result[c] = _auroc(labels[known, c] == 1, scores[known, c])
    return result


def macro_auroc(aurocs: Float[np.ndarray, " class"]) -> float:
    """Returns the mean over the classes that have an AUROC; NaN if none has.

    It equals `roc_auc_score(..., average="macro")` if all labels are known.

    Args:
        aurocs: float [class], from `class_aurocs`.

    >>> macro_auroc(np.array([0.5, np.nan, 1.0]))
    0.75
    """
    defined = aurocs[~np.isnan(aurocs)]
    return float(defined.mean()) if defined.size else float("nan")


def micro_auroc(
    labels: Int8[np.ndarray, "image class"],
    scores: Float[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
) -> float:
    """Returns the AUROC over all known pairs of image and class together; NaN if undefined.

    It equals `roc_auc_score(..., average="micro")` if all labels are known. Scores of different
    classes are compared with each other.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        scores: float [image, class].
        included: bool [class], the classes to include.

    >>> labels = np.array([[1, 0], [0, -1]], np.int8)
    >>> micro_auroc(labels, np.array([[0.5, 0.4], [0.6, 0.9]]), np.array([True, True]))
    0.5
    """
    known = (labels != UNKNOWN) & included
    return _auroc(labels[known] == 1, scores[known])


def _auroc(positive: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> float:
    from sklearn.metrics import roc_auc_score  # imported late: takes most of a second

    if positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, scores))
