"""tf.data pipelines: this process's rows of each global batch, in an order that is a function.

Training pictures form one endless stream: epoch after epoch, each a permutation of all of them
that depends on (seed, epoch) only.  Batch number b is the stream's positions b*size to
(b+1)*size, so every batch is full, no picture is ever left out, and any step can be started from
without replaying what came before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.decoding import explain_bad_image
from mlcls_jax.data.images import eval_picture, train_picture
from mlcls_jax.data.labels import LabelTable
from mlcls_jax.data.tensorflow_cpu import index_shuffle, tf

_PROBED = 4096  # pictures tried one by one to find the one that stopped a batch


@dataclass(frozen=True)
class Rows:
    """This process's share of each global batch: rows start to start + count."""

    batch_size: int
    start: int
    count: int


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


def stream_order(position: Any, pictures: int, seed: int) -> tuple[Any, Any]:
    """(epoch, index of the picture) at a position of the endless stream.

    Args:
        position: int64 scalar, tensor or number.
        pictures: how many there are.
        seed: of the order.

    Returns:
        Two int64 scalar tensors.  Each epoch's indices are a permutation of all pictures.
    """
    position = tf.convert_to_tensor(position, tf.int64)
    epoch, place = tf.math.floordiv(position, pictures), tf.math.floormod(position, pictures)
    seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
    return epoch, index_shuffle(place, seeds, tf.constant(pictures - 1, tf.int64))


def train_batches(
    table: LabelTable,
    *,
    first_step: int,
    last_step: int,
    rows: Rows,
    size: int,
    augment: Augment,
    seed: int,
) -> Iterator[Batch]:
    """Yields this process's rows of the batches of steps first_step to last_step - 1, on the host.

    Args:
        table: training pictures and labels.
        rows: which rows of each batch.
        size: side of the pictures in pixels.
        augment: resize, crop and flip; the result for a picture is a function of
            (seed, epoch, index of the picture).
        seed: of order and augmentation.

    Raises:
        ValueError: a picture cannot be read; names it.
    """
    paths, labels = tf.constant(table.paths), tf.constant(table.labels)
    transform = partial(
        train_picture,
        size=size,
        train_resize=augment.train_resize,
        min_scale=augment.min_scale,
        flip=augment.flip,
        interpolation=augment.interpolation,
    )

    def load(number: Any) -> tuple:
        step, row = number // rows.count, number % rows.count
        position = step * rows.batch_size + rows.start + row
        epoch, index = stream_order(position, len(table), seed)
        key = tf.random.fold_in(tf.stack([tf.constant(seed, tf.int64), epoch]), index)
        image = transform(tf.io.read_file(tf.gather(paths, index)), key)
        return image, tf.gather(labels, index), tf.cast(position, tf.uint32)

    numbers = tf.data.Dataset.range(first_step * rows.count, last_step * rows.count)
    dataset = numbers.map(load, tf.data.AUTOTUNE)
    batches = _iterate(dataset.batch(rows.count, drop_remainder=True).prefetch(2))
    for step in range(first_step, last_step):
        try:
            fields = next(batches)
        except tf.errors.OpError as error:
            start = step * rows.batch_size
            upcoming = range(start, min(last_step * rows.batch_size, start + _PROBED))
            raise _unreadable(table, upcoming, seed, error) from error
        yield Batch(*fields)


def eval_batches(
    paths: Sequence[str], *, rows: Rows, size: int, augment: Augment
) -> Iterator[np.ndarray]:
    """Yields this process's rows of the pictures in their order: uint8 [rows, size, size, 3].

    The last batch is filled up with copies of the last picture, so that every batch of every
    process has the same shape; rows at and after len(paths) count for nothing.

    Raises:
        ValueError: a picture cannot be read; names it.
    """
    pictures, files = len(paths), tf.constant(list(paths))
    steps = -(-pictures // rows.batch_size)
    transform = partial(
        eval_picture,
        size=size,
        eval_resize=augment.eval_resize,
        interpolation=augment.interpolation,
    )

    def load(number):
        row = number // rows.count * rows.batch_size + rows.start + number % rows.count
        return transform(tf.io.read_file(tf.gather(files, tf.minimum(row, pictures - 1))))

    dataset = tf.data.Dataset.range(steps * rows.count).map(load, tf.data.AUTOTUNE)
    try:
        yield from _iterate(dataset.batch(rows.count, drop_remainder=True).prefetch(2))
    except tf.errors.OpError as error:
        cause = explain_bad_image(paths)
        raise ValueError(cause or f"a picture cannot be read: {error.message}") from error


def batch_filenames(table: LabelTable, step: int, batch_size: int, seed: int) -> list[str]:
    """File names of the global batch of a training step."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [table.filenames[i] for i in _indices(positions, len(table), seed)]


def _indices(positions: range, pictures: int, seed: int) -> list[int]:
    return [int(stream_order(position, pictures, seed)[1]) for position in positions]


def _iterate(dataset) -> Iterator:
    options = tf.data.Options()
    options.deterministic = True
    return iter(dataset.with_options(options).as_numpy_iterator())


def _unreadable(table: LabelTable, positions: range, seed: int, error) -> ValueError:
    paths = table.paths
    cause = explain_bad_image([paths[i] for i in _indices(positions, len(table), seed)])
    return ValueError(cause or f"a picture cannot be read: {error.message}")
