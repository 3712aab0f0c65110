"""Precision at a recall: how many false alarms it takes to find most positives of a class."""

import numpy as np
from jaxtyping import Bool, Float, Int8

from mlcls_jax.data.label_table import UNKNOWN


def precisions_at_recall(
    labels: Int8[np.ndarray, "image class"],
    scores: Float[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
    recall: float,
) -> Float[np.ndarray, " class"]:
    """Returns the highest precision of each class among thresholds with at least this recall.

    Precision and recall are those of scikit-learn's `precision_recall_curve` on the images with a
    known label of the class. The threshold is chosen on the same images, so the figure is that of
    the best threshold, as in average precision.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        scores: float [image, class]; only their order within a class matters.
        included: bool [class]; each included class has a positive label.
        recall: above 0 and up to 1.

    Returns:
        Float64 [class]; NaN for classes that are not included.

    >>> labels = np.array([[1], [0], [1], [0], [0]], np.int8)
    >>> scores = np.array([[0.9], [0.8], [0.7], [0.6], [0.5]])
    >>> precisions_at_recall(labels, scores, np.array([True]), 0.5).tolist()
    [1.0]
    >>> precisions_at_recall(labels, scores, np.array([True]), 0.9).round(3).tolist()
    [0.667]
    """
    from sklearn.metrics import precision_recall_curve  # imported late: takes most of a second

    result = np.full(labels.shape[1], np.nan)
    for c in np.flatnonzero(included):
        known = labels[:, c] != UNKNOWN
        precisions, recalls, _ = precision_recall_curve(labels[known, c], scores[known, c])
        result[c] = precisions[recalls >= recall].max()
    return result
