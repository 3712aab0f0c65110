"""Multi-label metrics that compare the labels within an image.

Unknown labels are left out of all of them: each image is measured over its known labels only, and
an image without a known label is left out. Where all labels are known, each metric equals the
function of scikit-learn that it names.
"""

import numpy as np
from jaxtyping import Bool, Float, Int8

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation.auroc import micro_auroc
from mlcls_jax.evaluation.metrics import THRESHOLD, mean_or_nan

MAX_PAIRS = 10_000_000  # labels that are compared at once, for less memory


def image_decision_values(
    labels: Int8[np.ndarray, "image class"],
    predicted: Bool[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
) -> dict[str, float]:
    """Returns further metrics of predicted classes.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        predicted: bool [image, class], True where the class is predicted present.
        included: bool [class], the classes to include.

    Returns:
        A dictionary with

        F1_macro: mean over classes of the F1 over the known labels of the class; 0 for a class
            that is never predicted. As `f1_score(average="macro")`. CF1 is not this mean.
        F1_samples: mean over images of the F1 over the known labels of the image; 1 for an image
            with no positive label and none predicted. As
            `f1_score(average="samples", zero_division=1)`.
        exact_match: share of images in which every known label is predicted right. As
            `accuracy_score`, also called subset accuracy.
        hamming_loss: share of wrong predictions among the known labels. As `hamming_loss`.

        All are NaN if no label of an included class is known.

    >>> labels = np.array([[1, 0], [1, 1], [0, -1]], np.int8)
    >>> predicted = np.array([[True, False], [False, True], [False, True]])
    >>> values = image_decision_values(labels, predicted, np.array([True, True]))
    >>> {name: round(value, 3) for name, value in values.items()}
    {'F1_macro': 0.833, 'F1_samples': 0.889, 'exact_match': 0.667, 'hamming_loss': 0.2}
    """
    labels, predicted = labels[:, included], predicted[:, included]
    known = labels != UNKNOWN
    positive, predicted = labels == 1, predicted & known
    right, wrong = positive & predicted, positive != predicted
    measured = known.any(axis=1)
    exact = ~wrong.any(axis=1)
    return {
        "F1_macro": mean_or_nan(_f1(right.sum(axis=0), wrong.sum(axis=0), 0.0)[known.any(axis=0)]),
        "F1_samples": mean_or_nan(_f1(right.sum(axis=1), wrong.sum(axis=1), 1.0)[measured]),
        "exact_match": mean_or_nan(exact[measured]),
        "hamming_loss": mean_or_nan(wrong[known]),
    }


def ranking_values(
    labels: Int8[np.ndarray, "image class"],
    scores: Float[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
) -> dict[str, float]:
    """Returns metrics of the order of the classes within each image.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        scores: float [image, class]; only their order within an image matters.
        included: bool [class], the classes to include.

    Returns:
        A dictionary with

        LRAP: label-ranking average precision, as `label_ranking_average_precision_score`: for each
            positive label the share of positives among the labels that score at least as high,
            averaged over the positives of an image, then over images. An image whose known labels
            are all positive, or all negative, counts as 1.
        coverage_error: how far one must go down the ranking of an image to reach all its positives,
            averaged over images, as `coverage_error`. An image without positives counts as 0.

        Both are NaN if no label of an included class is known.

    >>> labels = np.array([[1, 0, 0], [0, 1, -1]], np.int8)
    >>> scores = np.array([[0.6, 0.9, 0.1], [0.2, 0.7, 0.8]])
    >>> ranking_values(labels, scores, np.array([True, True, True]))
    {'LRAP': 0.75, 'coverage_error': 1.5}
    """
    labels, scores = labels[:, included], scores[:, included]
    known = labels != UNKNOWN
    lowest = np.where(labels == 1, scores, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    depth = ((scores >= lowest) & known).sum(axis=1)
    return {
        "LRAP": _label_ranking_average_precision(labels, scores),
        "coverage_error": mean_or_nan(depth[known.any(axis=1)]),
    }


def _label_ranking_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    # scikit-learn's function takes no unknown labels, and has a loop over images that takes long.
    known, positive = labels != UNKNOWN, labels == 1
    rows, columns = np.nonzero(positive)
    precisions = np.ones(len(rows))
    step = max(MAX_PAIRS // max(labels.shape[1], 1), 1)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        image = rows[part]
        above = scores[image] >= scores[image, columns[part]][:, None]
        precisions[part] = (above & positive[image]).sum(axis=1) / (above & known[image]).sum(
            axis=1
        )
    counts = positive.sum(axis=1)
    sums = np.bincount(rows, precisions, minlength=len(labels))
    return mean_or_nan(np.where(counts, sums / np.maximum(counts, 1), 1.0)[known.any(axis=1)])


def _f1(right: np.ndarray, wrong: np.ndarray, undefined: float) -> np.ndarray:
    """Returns 2 TP / (2 TP + FP + FN); `undefined` where nothing is labelled nor predicted."""
    total = 2 * right + wrong
    return np.where(total, 2 * right / np.maximum(total, 1), undefined)


def further_values(
    labels: Int8[np.ndarray, "image class"],
    probabilities: Float[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
) -> dict[str, float]:
    """Returns the metrics that only `evaluate` reports, at a threshold of 0.5.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        probabilities: float [image, class], in [0, 1].
        included: bool [class], the classes to include.

    Returns:
        AUROC_micro, and what `image_decision_values` and `ranking_values` return.
    """
    return {
        "AUROC_micro": micro_auroc(labels, probabilities, included),
        **image_decision_values(labels, probabilities >= THRESHOLD, included),
        **ranking_values(labels, probabilities, included),
    }
