"""Loads batches with tf.data.

TensorFlow cannot catch an error of one image.  So when a batch fails, the threads make that batch,
name or skip the bad image, and tf.data continues after it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.images.augment import changes_pixels
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders import threads
from mlcls_jax.data.loaders.loader import Reader, Rows
from mlcls_jax.data.loaders.order import eval_order, train_order
from mlcls_jax.data.loaders.tf_pipeline import Images, eval_images, image_dataset, train_images
from mlcls_jax.data.loaders.tf_service import served_batches
from mlcls_jax.system.console import one_line

_MOST = 1 << 20  # images whose order is computed at once
_TRIES = 3  # failures in a row that no image explains


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
    paths = table.paths
    images = train_images(paths, size, augment, seed, reader)

    def order(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        return train_order(paths, seed, reader.bad, rows, first, last, table.repeats)

    def by_threads(step: int) -> Iterator[np.ndarray]:
        options = {"rows": rows, "size": size, "augment": augment, "seed": seed, "reader": reader}
        batches = threads.train_batches(table, first_step=step, last_step=step + 1, **options)
        return (batch.image for batch in batches)

    steps = range(first_step, last_step)
    with ThreadPoolExecutor(reader.workers(), thread_name_prefix="images") as pool:
        batches = _batches(images, steps, rows.count, order, by_threads, pool)
        for step, pixels, indices in batches:
            start = step * rows.batch_size + rows.start
            positions = np.arange(start, start + rows.count, dtype=np.uint32)
            yield Batch(pixels, table.train_labels[indices], positions)


def eval_batches(
    paths: Sequence[str],
    *,
    rows: Rows,
    size: int,
    augment: Augment,
    reader: Reader,
) -> Iterator[np.ndarray]:
    """Yields batches for evaluation; see `loader.eval_batches`."""
    images = eval_images(paths, size, augment, reader)

    def order(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        return eval_order(paths, reader.bad, rows, first, last)

    def by_threads(step: int) -> Iterator[np.ndarray]:
        start = step * rows.batch_size + rows.start
        alone = Rows(rows.count, 0, rows.count)
        part = paths[start : start + rows.count]
        return threads.eval_batches(part, rows=alone, size=size, augment=augment, reader=reader)

    steps = range(-(-len(paths) // rows.batch_size))
    for _, pixels, _ in _batches(images, steps, rows.count, order, by_threads):
        yield pixels


def _batches(
    images: Images,
    steps: range,
    count: int,
    order: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    by_threads: Callable[[int], Iterator[np.ndarray]],
    pool: ThreadPoolExecutor | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (step, images, indices); a batch that TensorFlow cannot make is made by threads.

    The threads of the pool change the pixels of the others, if that is part of the augmentation.

    Raises:
      ValueError: an image cannot be read and must not be skipped, or TensorFlow fails again and
        again although every image can be read.
    """
    changes = pool if changes_pixels(images.augment) else None
    at_once, step, unexplained = max(_MOST // count, 1), steps.start, 0
    failure = tf.errors.OpError  # modules are gone when Python ends before the batches do
    while step < steps.stop:
        last = min(step + at_once, steps.stop)
        epochs, indices = order(step, last)
        try:
            for row, pixels in enumerate(_datasets(images, epochs, indices)):
                if pixels is None:
                    pixels = next(iter(by_threads(step)))
                elif changes:
                    pixels = _changed(images, pixels, epochs[row], indices[row], changes)
                yield step, pixels, indices[row]
                step, unexplained = step + 1, 0
            continue
        except failure as error:
            known = len(images.reader.bad)
            pixels = next(iter(by_threads(step)))
            # Substitutes of images that were found to be bad only now are in this order.
            epochs, indices = order(step, step + 1)
            refused = _refused(images, epochs[0], indices[0])
            unexplained += not refused and len(images.reader.bad) == known
            if unexplained >= _TRIES:
                raise ValueError(
                    f"TensorFlow cannot make a batch ({one_line(error, limit=300)}); set "
                    "data.loader=threads"
                ) from error
        images = replace(images, by_python=images.by_python | refused)
        yield step, pixels, indices[0]
        step += 1


def _datasets(
    images: Images, epochs: np.ndarray, indices: np.ndarray
) -> Iterator[np.ndarray | None]:
    """Yields the batches of a dataset; None for one that was lost."""
    if images.training and images.reader.service:
        yield from served_batches(images, epochs, indices)
    else:
        for batch in image_dataset(images, epochs, indices):
            yield np.asarray(batch)  # unlike numpy(), without a copy


def _changed(
    images: Images,
    batch: np.ndarray,
    epochs: np.ndarray,
    indices: np.ndarray,
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """The batch after changes of pixels, by several threads."""
    changed = np.empty_like(batch)

    def change(rows: slice) -> None:
        for row in range(*rows.indices(len(batch))):
            changed[row] = images.changed(batch[row], epochs[row], indices[row])

    parts = threads.parts_of(len(batch), images.reader.workers())
    for task in [pool.submit(change, part) for part in parts]:
        task.result()
    return changed


def _refused(images: Images, epochs: np.ndarray, indices: np.ndarray) -> frozenset[int]:
    """The images of a batch that TensorFlow cannot decode, although Python can."""
    refused, some = set(), indices[indices >= 0]
    alone = iter(image_dataset(images, epochs[indices >= 0][:, None], some[:, None]))
    for index in some.tolist():
        try:
            next(alone)
        except tf.errors.OpError:
            refused.add(index)
    return frozenset(refused)
