"""How far mAP would vary with other images of the same kind: percentile bootstrap.

Images are drawn with replacement, each with all its labels (Efron, 1979).  How often an image
was drawn is its weight, so that each class is sorted once, and the average precisions of many
resamples are one product of a sparse matrix with the weights.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8
from scipy.sparse import csr_array

from mlcls_jax.data.label_table import UNKNOWN

LEVEL = 0.95
AT_ONCE = 64  # resamples: their weights are read together
MOST = 4_000_000_000  # known labels times resamples: less than ten seconds


@dataclass(frozen=True)
class Interval:
    """Of mAP: `low` to `high` at confidence `level`, from so many resamples."""

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
    """The interval of mAP over the included classes; None where nothing can be resampled.

    A class that a resample has no positive of is left out of its mean, as it is from any mAP.

    Args:
        labels: 1, 0 or UNKNOWN.
        scores: of which the order counts alone.
        included: classes of the mean; each has a positive.
        resamples: wanted; fewer are made where these labels are so many that it would take long.
        seed: of the draws.
    """
    known = int((labels[:, included] != UNKNOWN).sum())
    count = min(resamples, max(MOST // known, 1)) if known else 0
    if not count:
        return None
    classes = [RankedClass(labels[:, c], scores[:, c]) for c in np.flatnonzero(included)]
    rng, maps = np.random.default_rng(seed), []
    for start in range(0, count, AT_ONCE):
        weights = _drawn(rng, len(labels), min(AT_ONCE, count - start))
        maps.append(_nan_mean([ranked.average_precisions(weights) for ranked in classes]))
    maps = np.concatenate(maps)
    maps, outside = maps[~np.isnan(maps)], 50 * (1 - LEVEL)
    if not len(maps):
        return None
    low, high = np.percentile(maps, [outside, 100 - outside])
    return Interval(float(low), float(high), LEVEL, count)


class RankedClass:
    """The images of one class by falling score, cut after each score that a positive has."""

    def __init__(self, labels: Int8[np.ndarray, " image"], scores: Float[np.ndarray, " image"]):
        """Sorts the images with a known label; at least one is positive."""
        known = np.flatnonzero(labels != UNKNOWN)
        order = known[np.argsort(-scores[known], kind="stable")]
        last = np.append(scores[order][:-1] > scores[order][1:], True)  # of the equal scores
        level = np.cumsum(last) - last
        positive = labels[order] == 1
        levels = np.unique(level[positive])
        ends = np.flatnonzero(last)[levels] + 1
        self._taken = _sums(order[: ends[-1]], ends, len(labels))
        counts = np.searchsorted(level[positive], levels, side="right")
        self._true = _sums(order[positive], counts, len(labels))

    def average_precisions(
        self, weights: Float[np.ndarray, "image resample"]
    ) -> Float[np.ndarray, " resample"]:
        """scikit-learn's `average_precision_score` with each column as `sample_weight`.

        NaN where the positives weigh nothing.
        """
        new = self._true @ weights
        true = np.cumsum(new, axis=0)
        taken = np.cumsum(self._taken @ weights, axis=0)
        with np.errstate(invalid="ignore"):  # 0 / 0
            precision = true / np.where(taken, taken, 1)
            return (new * precision).sum(axis=0) / true[-1]


def _sums(order: np.ndarray, ends: np.ndarray, images: int) -> csr_array:
    """The matrix that sums weights of images over consecutive pieces of an order."""
    starts = np.concatenate([[0], ends]).astype(np.int32)
    ones = np.ones(len(order), np.float32)
    return csr_array((ones, order.astype(np.int32), starts), shape=(len(ends), images))


def _drawn(rng: np.random.Generator, images: int, resamples: int) -> np.ndarray:
    """Float32 [image, resample]: how often each was drawn; float32 counts exactly to 2**24."""
    drawn = (rng.integers(0, images, images) for _ in range(resamples))
    counts = [np.bincount(rows, minlength=images).astype(np.float32) for rows in drawn]
    return np.stack(counts, axis=1)


def _nan_mean(values: list[np.ndarray]) -> np.ndarray:
    """Over the first axis; NaN where there is no number."""
    stacked = np.stack(values).astype(np.float64)
    there = ~np.isnan(stacked)
    total, count = np.where(there, stacked, 0).sum(axis=0), there.sum(axis=0)
    return np.where(count, total / np.maximum(count, 1), np.nan)
