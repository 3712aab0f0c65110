"""The order of the images and their random numbers, as functions of (seed, epoch, index).

Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"), so the random numbers of one image do not require drawing those of any other.
"""

import functools
from collections.abc import Iterator

import numpy as np

AUGMENT, SUBSTITUTE = 0, 1

_TRIES = 1000


def stream_order(positions: np.ndarray, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epoch and the image at each position of the endless training stream.

    Args:
      positions: int64 [n], from 0.
      images: the number of images.
      seed: the seed of the order.

    Returns:
      The epochs and the image indices, both int64 [n]. Each epoch is a permutation of all images.

    >>> epochs, indices = stream_order(np.arange(8), images=4, seed=0)
    >>> epochs.tolist(), indices.tolist()
    ([0, 0, 0, 0, 1, 1, 1, 1], [1, 2, 0, 3, 0, 3, 1, 2])
    """
    epochs, places = np.divmod(np.asarray(positions, np.int64), images)
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = _permutation(int(epoch), images, seed)[places[chosen]]
    return epochs, indices


def generator(seed: int, epoch: int, index: int, purpose: int = AUGMENT) -> np.random.Generator:
    """Returns the random number generator of one image in one epoch.

    Args:
      seed: the seed of the run.
      epoch: from 0.
      index: the index of the image.
      purpose: AUGMENT or SUBSTITUTE.

    >>> generator(seed=0, epoch=1, index=2).random() == generator(seed=0, epoch=1, index=2).random()
    True
    """
    # Counter 0 is used for the order of the epoch.
    counter = [0, 0, index + 1, purpose]
    return np.random.Generator(np.random.Philox(counter=counter, key=[seed, epoch]))


def substitutes(seed: int, epoch: int, index: int, images: int) -> Iterator[int]:
    """Yields random images to try in place of one that cannot be read.

    Args:
      seed: the seed of the run.
      epoch: from 0.
      index: the index of the image that cannot be read.
      images: the number of images.

    Raises:
      ValueError: after 1000 images, because then hardly any image can be read.
    """
    rng = generator(seed, epoch, index, SUBSTITUTE)
    for _ in range(_TRIES):
        yield int(rng.integers(images))
    raise ValueError(
        f"{_TRIES} training images in a row cannot be read; check data.images and the files in it"
    )


@functools.lru_cache(maxsize=4)  # the threads prepare batches of at most two further epochs
def _permutation(epoch: int, images: int, seed: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(images)
    order.flags.writeable = False
    return order
