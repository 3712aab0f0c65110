"""Bootstrap confidence interval of mAP: how much it would vary with other images of the same kind.

Images are drawn with replacement, each with all its labels, and the interval is between percentiles
of the resampled mAPs (Efron, 1979). The number of times that an image was drawn is its weight. Each
class is therefore sorted only once, and the average precisions of many resamples are one product of
a sparse matrix with the weights.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8
from scipy.sparse import csr_array

from mlcls_jax.data.label_table import UNKNOWN

LEVEL = 0.95
CHUNK = 64  # resamples whose weights are processed together
MAX_LABELS = 4_000_000_000  # known labels times resamples: takes less than ten seconds


@dataclass(frozen=True)
class Interval:
    """Confidence interval of mAP.

    Attributes:
        low: lower end.
        high: upper end.
        level: confidence level, such as 0.95.
        resamples: number of resamples it was computed from.
    """

    low: float
    high: float
    level: float
    resamples: int


def map_interval(
    labels: Int8[np.ndarray, "image class"],
    scores: Float[np.ndarray, "image class"],
    included: Bool[np.ndarray, " class"],
    resamples: int,
    seed: int,
) -> Interval | None:
    """Returns the confidence interval of mAP over the included classes.

    A class that has no positive in a resample is excluded from the mean of that resample, as it is
    from any mAP.

    Args:
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        scores: float [image, class]; only their order matters.
        included: bool [class], the classes to average; each has a positive.
        resamples: number of resamples; fewer are made if the labels are so many that it would take
            more than about ten seconds.
        seed: seed of the draws.

    Returns:
        The interval, or None if nothing can be resampled.
    """
    known = int((labels[:, included] != UNKNOWN).sum())
    count = min(resamples, max(MAX_LABELS // known, 1)) if known else 0
    if not count:
        return None
    classes = [RankedClass(labels[:, c], scores[:, c]) for c in np.flatnonzero(included)]
    rng, maps = np.random.default_rng(seed), []
    for start in range(0, count, CHUNK):
        weights = _draw_weights(rng, len(labels), min(CHUNK, count - start))
        maps.append(_nan_mean([ranked.average_precisions(weights) for ranked in classes]))
    maps = np.concatenate(maps)
    maps, tail = maps[~np.isnan(maps)], 50 * (1 - LEVEL)
    if not len(maps):
        return None
    low, high = np.percentile(maps, [tail, 100 - tail])
    return Interval(float(low), float(high), LEVEL, count)


class RankedClass:
    """The images of one class by decreasing score, cut after each score that a positive has."""

    def __init__(self, labels: Int8[np.ndarray, " image"], scores: Float[np.ndarray, " image"]):
        """Sorts the images with a known label.

        Args:
            labels: int8 [image], each 1, 0 or UNKNOWN; at least one is 1.
            scores: float [image].
        """
        known = np.flatnonzero(labels != UNKNOWN)
        order = known[np.argsort(-scores[known], kind="stable")]
        ends_tie = np.append(scores[order][:-1] > scores[order][1:], True)
        level = np.cumsum(ends_tie) - ends_tie
        positive = labels[order] == 1
        levels = np.unique(level[positive])
        ends = np.flatnonzero(ends_tie)[levels] + 1
        self._taken = _segment_sums(order[: ends[-1]], ends, len(labels))
        counts = np.searchsorted(level[positive], levels, side="right")
        self._true = _segment_sums(order[positive], counts, len(labels))

    def average_precisions(
        self, weights: Float[np.ndarray, "image resample"]
    ) -> Float[np.ndarray, " resample"]:
        """Returns the average precision of each resample.

        It equals scikit-learn's `average_precision_score` with a column as `sample_weight`.

        Args:
            weights: float32 [image, resample], how many times each image was drawn.

        Returns:
            Float [resample]; NaN if no positive was drawn.
        """
        new = self._true @ weights
        true = np.cumsum(new, axis=0)
        taken = np.cumsum(self._taken @ weights, axis=0)
        with np.errstate(invalid="ignore"):  # 0 / 0
            precision = true / np.where(taken, taken, 1)
            return (new * precision).sum(axis=0) / true[-1]


def _segment_sums(order: np.ndarray, ends: np.ndarray, images: int) -> csr_array:
    """Returns the matrix that sums weights of images over consecutive segments of an order."""
    starts = np.concatenate([[0], ends]).astype(np.int32)
    ones = np.ones(len(order), np.float32)
    return csr_array((ones, order.astype(np.int32), starts), shape=(len(ends), images))


def _draw_weights(rng: np.random.Generator, images: int, resamples: int) -> np.ndarray:
    """Returns how many times each image was drawn: float32 [image, resample], exact to 2**24."""
    draws = (rng.integers(0, images, images) for _ in range(resamples))
    counts = [np.bincount(rows, minlength=images).astype(np.float32) for rows in draws]
    return np.stack(counts, axis=1)


def _nan_mean(values: list[np.ndarray]) -> np.ndarray:
    """Returns the mean over the first axis without NaN; NaN if there is no other value."""
    stacked = np.stack(values).astype(np.float64)
    valid = ~np.isnan(stacked)
    total, count = np.where(valid, stacked, 0).sum(axis=0), valid.sum(axis=0)
    return np.where(count, total / np.maximum(count, 1), np.nan)
