"""Which image comes when, and everything random about it, as functions of (seed, epoch, index).

Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"): the numbers of one image in one epoch are found without drawing those of any other.
"""

import functools
from collections.abc import Iterator

import numpy as np

AUGMENT, SUBSTITUTE = 0, 1

_TRIES = 1000


def stream_order(positions: np.ndarray, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, indices of the images) at positions of the endless stream.

    Args:
        positions: int64 [n], from 0.
        images: how many there are.
        seed: of the order.

    Returns:
        Two int64 [n].  Each epoch's indices are a permutation of all images.
    """
    epochs, places = np.divmod(np.asarray(positions, np.int64), images)
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = _permutation(int(epoch), images, seed)[places[chosen]]
    return epochs, indices


def generator(seed: int, epoch: int, index: int, purpose: int = AUGMENT) -> np.random.Generator:
    """The random numbers of one image in one epoch, for AUGMENT or SUBSTITUTE."""
    # Counter 0 is the epoch's order.
    counter = [0, 0, index + 1, purpose]
    return np.random.Generator(np.random.Philox(counter=counter, key=[seed, epoch]))


def substitutes(seed: int, epoch: int, index: int, images: int) -> Iterator[int]:
    """Indices of the images that take the place of one that cannot be read, one after another.

    Raises:
        ValueError: after so many that hardly any image can be readable.
    """
    rng = generator(seed, epoch, index, SUBSTITUTE)
    for _ in range(_TRIES):
        yield int(rng.integers(images))
    raise ValueError(
        f"{_TRIES} training images in a row cannot be read; is data.images the right folder?"
    )


@functools.lru_cache(maxsize=4)  # the pipeline is at most two epochs ahead of the step
def _permutation(epoch: int, images: int, seed: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(images)
    order.flags.writeable = False
    return order
