"""The order in which images are worth labelling next."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr

CENTRES = 2_000  # images that farthest_first chooses one by one; the others follow by one sort


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


def farthest_first(
    features: Float[np.ndarray, "image channel"], weights: Float[np.ndarray, " image"]
) -> Int[np.ndarray, " image"]:
    """Returns an order in which each image is unlike those before it.

    The first image has the largest weight.  Each following one has the largest product of its
    weight and its distance to the nearest image before it, as directions of features on the unit
    sphere.  With equal weights, this is the farthest-first traversal, or greedy k-centre: Sener and
    Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach,
    arXiv:1708.00489, algorithm 1, here without the images that are labelled already.

    Args:
        features: of the images.
        weights: how much each is worth by itself, such as its uncertainty, at least 0.

    >>> features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> farthest_first(features, np.array([1.0, 0.9, 0.5])).tolist()
    [0, 2, 1]
    """
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.maximum(norms, 1e-12)
    distances, taken = np.full(len(features), np.inf), np.zeros(len(features), bool)
    order: list[int] = []
    gains = weights.astype(float)
    for _ in range(min(CENTRES, len(features))):
        chosen = int(np.argmax(np.where(taken, -1.0, gains)))
        order.append(chosen)
        taken[chosen] = True
        squared = 2 - 2 * directions @ directions[chosen]
        distances = np.minimum(distances, np.sqrt(np.maximum(squared, 0)))
        gains = weights * distances
    rest = np.flatnonzero(~taken)
    return np.array([*order, *rest[np.argsort(-gains[rest], kind="stable")]], int)


def disagreement(
    probabilities: Float[np.ndarray, "member image class"],
) -> Float[np.ndarray, " image"]:
    """Returns by how much several models differ about each image, in nats.

    This is the information that a label has about which model is right, summed over the classes:
    the entropy of the mean probability minus the mean entropy.  It is 0 if all models agree, also
    where all are uncertain.

    Reference: Houlsby et al., Bayesian Active Learning for Classification and Preference Learning,
    arXiv:1112.5745, equation 2.

    >>> disagreement(np.array([[[0.5], [0.0]], [[0.5], [1.0]]])).round(3).tolist()
    [0.0, 0.693]
    """
    between = _entropy(probabilities.mean(axis=0)) - _entropy(probabilities).mean(axis=0)
    return np.maximum(between, 0).sum(axis=-1)


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Returns the entropy of each probability of a class, in nats."""
    return entr(probabilities) + entr(1 - probabilities)
