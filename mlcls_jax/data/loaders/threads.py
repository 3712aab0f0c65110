"""Files to batches: this process's rows of each global batch, in an order that is a function.

Training images form one endless stream: epoch after epoch, each a permutation of all of them
that depends on (seed, epoch) only.  Batch number b is the stream's positions b*size to
(b+1)*size, so every batch is full, no image is ever left out, and any step can be started from
without replaying what came before it.

Threads decode straight into the rows of the batches.  Reading, decoding and resizing all let go of
Python's lock, so this scales over cores; tf.data around the same calls was a fifth slower.
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


class BufferPool:
    """Memory of batches, used again when a batch and all that look at it are gone.

    Fresh pages cost more than a copy of cached images does; and as it is aligned, a CPU's devices
    use it as it is.
    """

    def __init__(self, shape: tuple[int, ...]):
        """shape: of each batch."""
        self._shape, self._free = shape, []

    def take(self) -> np.ndarray:
        """uint8 of the shape, with what was in it before."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, math.prod(self._shape))
        # Views of the result have this one as their base, as what is below it is no array.
        flat = np.frombuffer(memory, np.uint8)
        weakref.finalize(flat, self._free.append, memory).atexit = False
        return flat.reshape(self._shape)


T = TypeVar("T")

_AHEAD = 2  # batches in the making beside the one that is waited for


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
    threads: that read and decode; 0: one more than there are cores, as one may wait for a disk.
    bad: what happens at an image that cannot be read.
    cache: of the images of one split, at the size and with the augmentation of the batches;
        None: they come from their files.
    """

    max_pixels: int = MAX_PIXELS
    threads: int = 0
    bad: BadImages = field(default_factory=BadImages)
    cache: ImageSource | None = None

    def workers(self) -> int:
        """How many threads that is here."""
        return self.threads or cores() + 1


def make_reader(
    data: Data,
    images: int,
    written: Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> Reader:
    """The reader that a config asks for.

    Args:
        data: threads and limits.
        images: how many there are, of which max_bad_fraction may be skipped.
        written: the CSV that lists what was skipped, by all processes; the first one writes it.
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
    """That this process may use: a container or a scheduler may have given it a share."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def local_rows(batch_size: int, field: str) -> Rows:
    """Splits a global batch evenly over the processes.

    Raises:
        ValueError: batch_size, set by config field `field`, does not divide by the devices.
    """
    devices, processes = jax.device_count(), jax.process_count()
    if batch_size % devices:
        raise ValueError(
            f"config: {field} is {batch_size}, which {devices} devices cannot share evenly; "
            f"use a multiple of {devices}"
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
    """Yields this process's rows of the batches of steps first_step to last_step - 1, on the host.

    An image that is skipped is replaced by another one, drawn by (seed, epoch, index).

    Args:
        table: training images and labels.
        rows: which rows of each batch.
        size: side of the images in pixels.
        augment: resize, crop and flip; the result for an image is a function of
            (seed, epoch, index of the image).
        seed: of order and augmentation.
        reader: of the files; by default, an image that cannot be read is an error.

    Raises:
        ValueError: an image cannot be read; names it.
    """
    reader, paths = reader or Reader(), table.paths
    source = reader.cache or ImageFiles(paths, size, augment, reader.max_pixels)
    memory = BufferPool((rows.count, size, size, 3))

    def draw(epoch: int, index: int, out: np.ndarray) -> int:
        """Writes the image, and returns its index: another one where it had to be replaced."""
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
        wanted = zip(epochs, indices, images, strict=True)
        return [draw(int(epoch), int(index), out) for epoch, index, out in wanted]

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
    """Yields this process's rows of the images in their order: uint8 [rows, size, size, 3].

    Every batch of every process has the same shape: rows at and after len(paths) are black and
    count for nothing, and so are images that are skipped.

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
        wanted, images[len(indices) :] = images[: len(indices)], 0
        parts = _parts(len(indices), source.at_once)
        return images, [pool.submit(draw_some, indices[part], wanted[part]) for part in parts]

    steps = range(-(-len(paths) // rows.batch_size))
    for images, tasks in in_order(begin, steps, rows.count, reader.workers()):
        for task in tasks:
            task.result()
        yield images


def batch_filenames(table: LabelTable, step: int, batch_size: int, seed: int) -> list[str]:
    """File names of the global batch of a training step."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    return [table.filenames[i] for i in stream_order(positions, len(table), seed)[1]]


def in_order(
    begin: Callable[[int, ThreadPoolExecutor], T], steps: range, count: int, workers: int
) -> Iterator[T]:
    """What `begin(step, pool)` returns, step after step, with the next ones begun already.

    Args:
        begin: gives the pool its tasks.
        steps: in their order.
        count: of images in a step.
        workers: threads of the pool.
    """
    ahead = max(_AHEAD, -(-2 * workers // count))  # of small batches, enough for all threads
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
        raise ImageError("it could not be read before")
