"""Images of val that look almost like one of train, by the features of a pretrained network."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# Cosine of two images' features from which they are reported; docs/data.md has the measurement.
THRESHOLD = 0.94
MOST = 100_000_000  # pairs that are compared; of more, a part of the val images
_ROWS = 256  # images of val that are compared at once

NearPair = tuple[str, str, float]  # file names in train and in val, and the cosine


def near_duplicates(
    train: Float[np.ndarray, "image channel"],
    val: Float[np.ndarray, "image channel"],
    train_names: Sequence[str],
    val_names: Sequence[str],
) -> list[NearPair]:
    """Returns the images of val with their nearest image of train, the nearest pairs first.

    Args:
      train, val: features of the images, any of which may be zero.
      train_names, val_names: their file names.

    >>> pairs = near_duplicates(np.eye(2), np.array([[1, 0.1], [1, 1]]), "ab", "cd")
    >>> [(a, b, round(cosine, 3)) for a, b, cosine in pairs]
    [('a', 'c', 0.995)]
    """
    if not len(train) or not len(val):
        return []
    rows = np.random.default_rng(0).permutation(len(val))[: max(1, MOST // len(train))]
    directions, found = _directions(train), []
    for begin in range(0, len(rows), _ROWS):
        part = rows[begin : begin + _ROWS]
        cosines = _directions(val[part]) @ directions.T
        nearest = cosines.argmax(axis=1)
        for row, other, cosine in zip(part, nearest, cosines.max(axis=1), strict=True):
            if cosine >= THRESHOLD:
                found.append((train_names[other], val_names[row], round(float(cosine), 4)))
    return sorted(found, key=lambda pair: (-pair[2], pair[1]))


def _directions(features: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norms, 1e-12)
