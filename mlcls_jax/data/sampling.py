"""The order of the images and their random numbers, as functions of (seed, epoch, index).

Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"), so the random numbers of one image do not require drawing those of any other.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

AUGMENT, SUBSTITUTE = 0, 1
# The second, third … time that an image is in an epoch has the random numbers of a later epoch.
REPEAT = 2**40

_TRIES = 1000
# Philox4x64-10: the multipliers and the increments of the key (Salmon et al. 2011, table 2).
PHILOX_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
PHILOX_INCREMENTS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
PHILOX_ROUNDS, PHILOX_WORDS = 10, 4
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_UNUSED_BITS = np.uint64(11)  # a float64 has 53 bits
_TO_UNIT = 2.0**-53


@dataclass(frozen=True)
class ImageRandom:
    """The random numbers of one image in one epoch.

    seed, epoch, index: see `generator`.
    uniforms: float64 [n], the first n numbers in [0, 1) of its generator.
    """

    seed: int
    epoch: int
    index: int
    uniforms: np.ndarray

    def rest(self) -> np.random.Generator:
        """Returns its generator, after `uniforms`."""
        return generator_after(self.seed, self.epoch, self.index, len(self.uniforms))


@dataclass(frozen=True, eq=False)
class Repeats:
    """How often each image is in an epoch, in proportion to that of the others.

    factors: float64 [n], above 0.
    """

    factors: np.ndarray

    @property
    def expected(self) -> np.ndarray:
        """How often each image is in an epoch, on average over all epochs: float64 [n], sum n."""
        return self.factors * (len(self.factors) / self.factors.sum())

    @property
    def distinct(self) -> float:
        """The number of different images in an epoch, on average."""
        return float(np.minimum(self.expected, 1).sum())


def image_random(seed: int, epoch: int, index: int, count: int) -> ImageRandom:
    """Returns the random numbers of one image, of which `count` are drawn in advance."""
    drawn = generator(seed, epoch, index).random(count)
    return ImageRandom(seed, epoch, index, drawn)


def stream_order(
    positions: np.ndarray, images: int, seed: int, repeats: Repeats | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epoch and the image at each position of the endless training stream.

    Args:
      positions: int64 [n], from 0.
      images: the number of images, which is the length of an epoch.
      seed: the seed of the order.
      repeats: how often each image is in an epoch; None: once.

    Returns:
      The epochs and the image indices, both int64 [n]. Each epoch is a permutation of all images.
      With `repeats`, an image is in an epoch as often as expected, rounded up or down at random.
      REPEAT times the number of its earlier places in the epoch is then added to the epoch, which
      makes it an argument of `generator` but no longer that of the position.

    >>> epochs, indices = stream_order(np.arange(8), images=4, seed=0)
    >>> epochs.tolist(), indices.tolist()
    ([0, 0, 0, 0, 1, 1, 1, 1], [1, 2, 0, 3, 0, 3, 1, 2])
    """
    epochs, places = np.divmod(np.asarray(positions, np.int64), images)
    indices, by_epoch = np.empty_like(places), np.argsort(epochs, kind="stable")
    starts = np.flatnonzero(np.diff(epochs[by_epoch], prepend=-1))
    for start, chosen in zip(starts, np.split(by_epoch, starts[1:]), strict=False):
        epoch = int(epochs[by_epoch[start]])
        order, earlier = _epoch_order(epoch, images, seed, repeats)
        indices[chosen] = order[places[chosen]]
        if earlier is not None:
            epochs[chosen] += REPEAT * earlier[places[chosen]]
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


def generator_after(seed: int, epoch: int, index: int, count: int) -> np.random.Generator:
    """Returns the generator of one image in one epoch, after `count` numbers in [0, 1)."""
    rng = generator(seed, epoch, index)
    rng.random(count)
    return rng


def uniforms(seed: int, epochs: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    """Returns the first numbers of the generators of many images.

    Making a generator takes longer than decoding a thumbnail, so the numbers of a whole batch are
    computed together.

    Args:
      seed: the seed of the run.
      epochs: int64 [n].
      indices: int64 [n], the index of each image.
      count: the number of numbers per image.

    Returns:
      float64 [n, count] in [0, 1).

    >>> uniforms(0, np.array([1]), np.array([2]), 3)[0].tolist() == generator(
    ...     seed=0, epoch=1, index=2).random(3).tolist()
    True
    """
    blocks = -(-count // PHILOX_WORDS)
    shape = len(indices), blocks
    counter = [
        np.broadcast_to(np.arange(1, blocks + 1, dtype=np.uint64), shape),
        np.zeros(shape, np.uint64),
        np.broadcast_to(np.asarray(indices, np.uint64)[:, None] + np.uint64(1), shape),
        np.full(shape, AUGMENT, np.uint64),
    ]
    keys = [
        np.full(shape, seed, np.uint64),
        np.broadcast_to(np.asarray(epochs, np.uint64)[:, None], shape),
    ]
    words = np.stack(_philox(counter, keys), axis=-1).reshape(len(indices), -1)
    return (words[:, :count] >> _UNUSED_BITS) * _TO_UNIT


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


def _philox(counter: list[np.ndarray], key: list[np.ndarray]) -> list[np.ndarray]:
    """Encrypts four words per counter: uint64 arrays of one shape in, the same out."""
    for step in range(PHILOX_ROUNDS):
        (high0, low0), (high1, low1) = (
            _multiply(np.uint64(factor), counter[word])
            for factor, word in zip(PHILOX_MULTIPLIERS, (0, 2), strict=True)
        )
        first, second = (
            word + np.uint64(step * increment % 2**64)
            for word, increment in zip(key, PHILOX_INCREMENTS, strict=True)
        )
        counter = [high1 ^ counter[1] ^ first, low1, high0 ^ counter[3] ^ second, low0]
    return counter


def _multiply(factor: np.uint64, word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of a product."""
    high, low = word >> _HALF, word & _LOW
    factor_high, factor_low = factor >> _HALF, factor & _LOW
    middle = high * factor_low + (low * factor_low >> _HALF)
    cross = low * factor_high + (middle & _LOW)
    upper = high * factor_high + (middle >> _HALF) + (cross >> _HALF)
    return np.asarray(upper), np.asarray(word * factor)


@functools.lru_cache(maxsize=4)  # the threads prepare batches of at most two further epochs
def _epoch_order(
    epoch: int, images: int, seed: int, repeats: Repeats | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of an epoch in order, and how often each was in it before, if that may be."""
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order, earlier = rng.permutation(images), None
    if repeats is not None:
        order, earlier = _with_repeats(order, repeats, rng)
        earlier.flags.writeable = False
    order.flags.writeable = False
    return order, earlier


def _with_repeats(
    order: np.ndarray, repeats: Repeats, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A systematic sample (Madow 1949, "On the theory of systematic sampling") in random order.

    The images lie side by side, each as wide as it is expected.  Points at distance 1 hit each of
    them its expected number of times, rounded up or down.
    """
    images = len(order)
    ends = np.cumsum(repeats.expected[order])
    points = np.arange(images) + rng.random()
    places = np.minimum(np.searchsorted(ends, points, side="right"), images - 1)
    earlier = np.arange(images) - np.searchsorted(places, places)  # places are ascending
    shuffled = rng.permutation(images)
    return order[places[shuffled]], earlier[shuffled]
