"""Loads batches with threads: this process's rows of each global batch.

Training images form one endless stream of epochs. Each epoch is a permutation of all images that
depends only on (seed, epoch). Batch number b has the positions b*size to (b+1)*size of the stream,
so every batch is full, every image is used in each epoch, and training can continue at any step
without replaying earlier ones.

Threads decode directly into the rows of the batches. Reading, decoding and resizing release the
GIL, so this scales with the cores; tf.data around the same calls was a fifth slower.
"""

import math
import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from mlcls_jax.config import Augment, Data
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.images.bad_images import BadImages
from mlcls_jax.data.images.decoding import MAX_PIXELS, ImageError
from mlcls_jax.data.images.image_source import ImageFiles, ImageSource
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.sampling import generator, stream_order, substitutes
from mlcls_jax.system import distributed
from mlcls_jax.system.devices import is_first_process

T = TypeVar("T")

_AHEAD = 2  # batches prepared in addition to the next one


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


@dataclass(frozen=True)
class Rows:
    """This process's share of each global batch: rows start to start + count."""

    batch_size: int
    start: int
    count: int


@dataclass(frozen=True)
class Reader:
    """How a process reads images.

    max_pixels: see `open_image`.
    threads: the number of threads; 0: one more than the cores, because one may wait for a disk.
    bad: handles images that cannot be read.
    cache: the decoded images of one split, with the size and augmentation of the batches; None:
        images are read from their files.
    """

    max_pixels: int = MAX_PIXELS
    threads: int = 0
    bad: BadImages = field(default_factory=BadImages)
    cache: ImageSource | None = None

    def workers(self) -> int:
        """Returns the number of threads on this machine."""
        return self.threads or cores() + 1


def make_reader(
    data: Data,
    images: int,
    written: Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> Reader:
    """Returns the reader that a config asks for.

    Args:
      data: its threads and limits are used.
      images: the number of images, of which data.max_bad_fraction may be skipped.
      written: the CSV that lists the skipped images of all processes; the first process writes it.
      tell: see BadImages.
    """
    limit, skip = int(data.max_bad_fraction * images), data.on_bad_image == "skip"
    if not distributed.is_multiprocess():
        bad = BadImages(skip, limit, written, tell)
    else:
        share = partial(distributed.share, "bad_images")
        bad = BadImages(skip, limit, written if is_first_process() else None, tell, share)
    return Reader(data.max_pixels, data.threads, bad)


def cores() -> int:
    """Returns the number of cores that this process may use; a scheduler may limit them."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def local_rows(batch_size: int, field: str) -> Rows:
    """Returns this process's rows when a global batch is split evenly over the processes.

    Args:
      batch_size: the size of the global batch.
      field: the config field that sets it, for the error message.

    Raises:
      ValueError: batch_size is not a multiple of the number of devices.
    """
    devices, processes = jax.device_count(), jax.process_count()
    if batch_size % devices:
        raise ValueError(
            f"config: {field} is {batch_size}, which cannot be split evenly over {devices} "
            f"devices; use a multiple of {devices}"
        )
    count = batch_size // processes
    return Rows(batch_size, jax.process_index() * count, count)


def train_batches(
    table: LabelTable,
    *,
    first_step: int,
    last_step: int,
    rows: Rows,
    size: int,
    augment: Augment,
    seed: int,
    reader: Reader | None = None,
) -> Iterator[Batch]:
    """Yields this process's rows of the training batches, on the host.

    A skipped image is replaced by another one, which depends on (seed, epoch, index).

    Args:
      table: training images and labels.
      first_step: the first step.
      last_step: the step after the last one.
      rows: the rows of this process.
      size: side of the images in pixels.
      augment: the augmentation; its result is a function of (seed, epoch, index of the image).
      seed: the seed of order and augmentation.
      reader: how images are read; by default, an image that cannot be read is an error.

    Raises:
      ValueError: an image cannot be read; names it.
    """
    reader, paths = reader or Reader(), table.paths
    source = reader.cache or ImageFiles(paths, size, augment, reader.max_pixels)
    memory = BufferPool((rows.count, size, size, 3))

    def draw(epoch: int, index: int, out: np.ndarray) -> int:
        """Writes an image and returns its index, or that of the image that replaces it."""
        others = substitutes(seed, epoch, index, len(paths))
        while True:
            try:
                _check_readable(paths[index], reader)
                source.train(index, generator(seed, epoch, index), out)
            except ImageError as error:
                reader.bad.report(paths[index], error)
                index = next(others)
            else:
                return index

    def draw_some(epochs: np.ndarray, indices: np.ndarray, images: np.ndarray) -> list[int]:
        rows = zip(epochs, indices, images, strict=True)
        return [draw(int(epoch), int(index), out) for epoch, index, out in rows]

    def begin(step: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray, list[Future]]:
        start = step * rows.batch_size + rows.start
        positions = np.arange(start, start + rows.count)
        epochs, indices = stream_order(positions, len(paths), seed)
        images = memory.take()
        parts = _parts(rows.count, source.at_once)
        tasks = [
            pool.submit(draw_some, epochs[part], indices[part], images[part]) for part in parts
        ]
        return positions, images, tasks

    steps, workers = range(first_step, last_step), reader.workers()
    for positions, images, tasks in in_order(begin, steps, rows.count, workers):
        indices = [index for task in tasks for index in task.result()]
        yield Batch(images, table.labels[indices], positions.astype(np.uint32))


def eval_batches(
    paths: Sequence[str],
    *,
    rows: Rows,
    size: int,
    augment: Augment,
    reader: Reader | None = None,
) -> Iterator[np.ndarray]:
    """Yields this process's rows of the images in order: uint8 [rows, size, size, 3].

    All batches of all processes have the same shape. Rows beyond len(paths) and skipped images are
    black, and must be ignored.

    Args:
      paths: the path of each image.
      rows: the rows of this process.
      size: side of the images in pixels.
      augment: its eval_resize and interpolation are used.
      reader: how images are read; by default, an image that cannot be read is an error.

    Raises:
      ValueError: an image cannot be read; names it.
    """
    reader = reader or Reader()
    source = reader.cache or ImageFiles(paths, size, augment, reader.max_pixels)
    memory = BufferPool((rows.count, size, size, 3))

    def draw(index: int, out: np.ndarray) -> None:
        try:
            _check_readable(paths[index], reader)
            source.evaluate(index, out)
        except ImageError as error:
            reader.bad.report(paths[index], error)
            out[:] = 0

    def draw_some(indices: range, images: np.ndarray) -> None:
        for index, out in zip(indices, images, strict=True):
            draw(index, out)

    def begin(step: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, list[Future]]:
        start = step * rows.batch_size + rows.start
        images, indices = memory.take(), range(len(paths))[start : start + rows.count]
        used, images[len(indices) :] = images[: len(indices)], 0
        parts = _parts(len(indices), source.at_once)
        return images, [pool.submit(draw_some, indices[part], used[part]) for part in parts]

    steps = range(-(-len(paths) // rows.batch_size))
    for images, tasks in in_order(begin, steps, rows.count, reader.workers()):
        for task in tasks:
            task.result()
        yield images


def batch_filenames(table: LabelTable, step: int, batch_size: int, seed: int) -> list[str]:
    """Returns the file names of the global batch of a training step."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    return [table.filenames[i] for i in stream_order(positions, len(table), seed)[1]]


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


def _parts(count: int, at_once: int) -> list[slice]:
    return [slice(start, start + at_once) for start in range(0, count, at_once)]


def _check_readable(path: str, reader: Reader) -> None:
    if path in reader.bad:
        raise ImageError("it could not be read earlier")
