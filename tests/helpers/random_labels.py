"""Random labels and scores with what makes metrics hard: ties, empty classes, unknown labels."""

import numpy as np

from mlcls_jax.data.label_table import UNKNOWN


def random_split(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels int8 [image, class], scores and which classes to include, of 1 to 24 images
    and 1 to 6 classes."""
    rng = np.random.default_rng(seed)
    n, c = rng.integers(1, 25), rng.integers(1, 7)
    labels = (rng.random((n, c)) < rng.choice([0.1, 0.4, 0.9])).astype(np.int8)
    labels[rng.random((n, c)) < rng.choice([0.0, 0.2, 0.7])] = UNKNOWN
    empty = rng.random(c) < rng.choice([0.0, 0.4])
    labels[:, empty] = np.minimum(labels[:, empty], 0)
    levels = rng.choice([1, 2, 4, 1000])
    return labels, rng.integers(0, levels + 1, (n, c)) / levels, rng.random(c) < 0.8
