"""Loads batches with threads, which decode directly into the rows of the batches.

Reading, decoding and resizing release Python's lock.  What remains holds it for some microseconds
of each image, which limits how far this scales with the cores.
"""

import math
import mmap
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.image_source import ImageFiles
from mlcls_jax.data.images.transforms import uniforms_needed
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import Reader, Rows
from mlcls_jax.data.sampling import (
    ImageRandom,
    image_random,
    stream_order,
    substitutes,
    uniforms,
)

T = TypeVar("T")

_AHEAD = 2  # batches prepared in addition to the next one
# Images per task of a thread: a task costs about as much as decoding a thumbnail.
_AT_ONCE = 8


class BufferPool:
    """Reuses the memory of batches that are no longer referenced.

    Fresh memory pages cost more than copying cached images. The memory is aligned, so that CPU
    devices use it without a copy.
    """

    def __init__(self, shape: tuple[int, ...]):
        """Creates a pool for arrays of one shape."""
        self._shape, self._free = shape, []

    def take(self) -> np.ndarray:
        """Returns a uint8 array of the shape, with arbitrary content."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, math.prod(self._shape))
        # All views of the result keep this array alive, because it is the lowest array below them.
        flat = np.frombuffer(memory, np.uint8)
        weakref.finalize(flat, self._free.append, memory).atexit = False
        return flat.reshape(self._shape)


def train_batches(
    table: LabelTable,
    *,
    first_step: int,
    last_step: int,
    rows: Rows,
    size: int,
    augment: Augment,
    seed: int,
    reader: Reader,
) -> Iterator[Batch]:
    """Yields training batches; see `loader.train_batches`."""
    paths, drawn = table.paths, uniforms_needed(augment)
    repeats = table.repeats
    memory = BufferPool((rows.count, size, size, reader.pixels.channels))
    draw = training_draw(paths, size, augment, seed, reader)

    def draw_some(randoms: list[ImageRandom], images: np.ndarray) -> list[int]:
        return [draw(random, out) for random, out in zip(randoms, images, strict=True)]

    def begin(step: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray, list[Future]]:
        start = step * rows.batch_size + rows.start
        positions = np.arange(start, start + rows.count)
        epochs, indices = stream_order(positions, len(paths), seed, repeats)
        numbers = uniforms(seed, epochs, indices, drawn)
        randoms = [
            ImageRandom(seed, *row)
            for row in zip(epochs.tolist(), indices.tolist(), numbers, strict=True)
        ]
        images = memory.take()
        parts = parts_of(rows.count, workers)
        tasks = [pool.submit(draw_some, randoms[part], images[part]) for part in parts]
        return positions, images, tasks

    steps, workers = range(first_step, last_step), reader.workers()
    for positions, images, tasks in in_order(begin, steps, rows.count, workers):
        indices = [index for task in tasks for index in task.result()]
        yield Batch(images, table.train_labels[indices], positions.astype(np.uint32))


def eval_batches(
    paths: Sequence[str],
    *,
    rows: Rows,
    size: int,
    augment: Augment,
    reader: Reader,
) -> Iterator[np.ndarray]:
    """Yields batches for evaluation; see `loader.eval_batches`."""
    memory, workers = BufferPool((rows.count, size, size, reader.pixels.channels)), reader.workers()
    draw = evaluation_draw(paths, size, augment, reader)

    def draw_some(indices: range, images: np.ndarray) -> None:
        for index, out in zip(indices, images, strict=True):
            draw(index, out)

    def begin(step: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, list[Future]]:
        start = step * rows.batch_size + rows.start
        images, indices = memory.take(), range(len(paths))[start : start + rows.count]
        used, images[len(indices) :] = images[: len(indices)], 0
        parts = parts_of(len(indices), workers)
        return images, [pool.submit(draw_some, indices[part], used[part]) for part in parts]

    steps = range(-(-len(paths) // rows.batch_size))
    for images, tasks in in_order(begin, steps, rows.count, workers):
        for task in tasks:
            task.result()
        yield images


def training_draw(
    paths: Sequence[str], size: int, augment: Augment, seed: int, reader: Reader
) -> Callable[[ImageRandom, np.ndarray], int]:
    """Returns a function that writes a training image and returns its index.

    It takes the random numbers of an image, and an array uint8 [size, size, channel] to write to.
    If the image cannot be read, another one takes its place, and its index is returned.

    Args: see `loader.train_batches`.
    """
    source = reader.cache or ImageFiles(paths, size, augment, reader.pixels)

    def draw(random: ImageRandom, out: np.ndarray) -> int:
        others = substitutes(seed, random.epoch, random.index, len(paths))
        while True:
            try:
                _check_readable(paths[random.index], reader)
                source.train(random.index, random, out)
                return random.index
            except ImageError as error:
                reader.bad.report(paths[random.index], error)
                drawn = len(random.uniforms)
                random = image_random(seed, random.epoch, next(others), drawn)

    return draw


def evaluation_draw(
    paths: Sequence[str], size: int, augment: Augment, reader: Reader
) -> Callable[[int, np.ndarray], None]:
    """Returns a function that writes an image for evaluation; black if it cannot be read.

    It takes the index of an image, and an array uint8 [size, size, channel] to write to.

    Args: see `loader.eval_batches`.
    """
    source = reader.cache or ImageFiles(paths, size, augment, reader.pixels)

    def draw(index: int, out: np.ndarray) -> None:
        try:
            _check_readable(paths[index], reader)
            source.evaluate(index, out)
        except ImageError as error:
            reader.bad.report(paths[index], error)
            out[:] = 0

    return draw


def in_order(
    begin: Callable[[int, ThreadPoolExecutor], T], steps: range, count: int, workers: int
) -> Iterator[T]:
    """Yields `begin(step, pool)` for each step, in order, and begins later steps in advance.

    Args:
      begin: submits the tasks of a step to the pool.
      steps: the steps, in order.
      count: the number of images in a step.
      workers: the number of threads.
    """
    ahead = max(_AHEAD, -(-2 * workers // count))  # small batches: enough for all threads
    queue: deque[T] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    try:
        for step in steps:
            queue.append(begin(step, pool))
            if len(queue) > ahead:
                yield queue.popleft()
        yield from queue
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def parts_of(count: int, workers: int) -> list[slice]:
    """Returns parts of a batch, at least two for each thread if there are enough images.

    Args:
      count: the number of images.
      workers: the number of threads.
    """
    at_once = min(max(count // (2 * workers), 1), _AT_ONCE)
    return [slice(start, start + at_once) for start in range(0, count, at_once)]


def _check_readable(path: str, reader: Reader) -> None:
    if path in reader.bad:
        raise ImageError("it could not be read earlier")
