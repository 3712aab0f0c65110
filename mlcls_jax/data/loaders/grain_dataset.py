"""Loads batches with Grain: a MapDataset over the positions, with the decoder of the threads."""

from collections.abc import Iterator, Sequence
from typing import Any

import grain  # pyright: ignore[reportMissingImports]
import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.images.transforms import uniforms_needed
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import Reader, Rows
from mlcls_jax.data.loaders.order import stream_rows
from mlcls_jax.data.loaders.threads import evaluation_draw, training_draw
from mlcls_jax.data.sampling import image_random

_AHEAD = 2  # batches prepared in addition to the next one


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
    draw, drawn = training_draw(table.paths, size, augment, seed, reader), uniforms_needed(augment)
    epochs, indices = stream_rows(len(table), seed, rows, first_step, last_step, table.repeats)

    def load(row: int) -> tuple[np.ndarray, np.ndarray, np.uint32]:
        step, place = divmod(row, rows.count)
        position = (first_step + step) * rows.batch_size + rows.start + place
        out = np.empty((size, size, reader.pixels.channels), np.uint8)
        random = image_random(seed, int(epochs[step, place]), int(indices[step, place]), drawn)
        return out, table.train_labels[draw(random, out)], np.uint32(position)

    for images, labels, positions in _batches(load, last_step - first_step, rows.count, reader):
        yield Batch(images, labels, positions)


def eval_batches(
    paths: Sequence[str],
    *,
    rows: Rows,
    size: int,
    augment: Augment,
    reader: Reader,
) -> Iterator[np.ndarray]:
    """Yields batches for evaluation; see `loader.eval_batches`."""
    draw = evaluation_draw(paths, size, augment, reader)

    def load(row: int) -> np.ndarray:
        step, place = divmod(row, rows.count)
        index = step * rows.batch_size + rows.start + place
        out = np.zeros((size, size, reader.pixels.channels), np.uint8)
        if index < len(paths):
            draw(index, out)
        return out

    yield from _batches(load, -(-len(paths) // rows.batch_size), rows.count, reader)


def _batches(load: Any, steps: int, count: int, reader: Reader) -> Iterator[Any]:
    dataset = grain.MapDataset.range(steps * count).map(load)
    options = grain.ReadOptions(
        num_threads=reader.workers(), prefetch_buffer_size=(_AHEAD + 1) * count
    )
    yield from dataset.to_iter_dataset(options).batch(count, drop_remainder=True)
