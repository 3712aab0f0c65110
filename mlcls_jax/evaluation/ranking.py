"""The order in which images are worth labelling next."""

import numpy as np
from jaxtyping import Float


def certainty(
    probabilities: Float[np.ndarray, "image class"], thresholds: Float[np.ndarray, " class"]
) -> Float[np.ndarray, " image"]:
    """Returns how far the least certain class of each image is from its threshold, from 0 to 1.

    The distance is relative to the side that the probability is on: 0 at the threshold, and 1 at a
    probability of 0 or 1.  Images of the lowest certainty are worth labelling first.

    Reference: margin sampling, Settles, Active Learning Literature Survey, section 3.1.

    >>> certainty(np.array([[0.75, 0.0], [0.5, 0.9]]), np.array([0.5, 0.5])).tolist()
    [0.5, 0.0]
    """
    room = np.where(probabilities >= thresholds, 1 - thresholds, thresholds)
    distance = np.abs(probabilities - thresholds) / np.maximum(room, 1e-9)
    return distance.min(axis=1)
