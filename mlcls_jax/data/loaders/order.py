"""Which image each row of each batch is, for many steps at once."""

from collections.abc import Sequence

import numpy as np

from mlcls_jax.data.loaders.loader import Reader, Rows
from mlcls_jax.data.sampling import stream_order, substitutes

NO_IMAGE = -1  # in place of an index: a black image


def train_order(
    paths: Sequence[str], seed: int, reader: Reader, rows: Rows, first_step: int, last_step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epoch and the index of each image of this process: int64 [step, row].

    Images that could not be read are replaced, as `threads.train_batches` does.

    Args:
      paths: the training images.
      seed: of the order.
      reader: what it could not read is replaced.
      rows: the rows of this process.
      first_step: the first step.
      last_step: the step after the last one.
    """
    starts = np.arange(first_step, last_step) * rows.batch_size + rows.start
    positions = (starts[:, None] + np.arange(rows.count)).ravel()
    epochs, indices = stream_order(positions, len(paths), seed)
    bad = reader.bad
    if len(bad):
        unreadable = np.array([path in bad for path in paths])
        for place in np.flatnonzero(unreadable[indices]):
            others = substitutes(seed, int(epochs[place]), int(indices[place]), len(paths))
            indices[place] = next(other for other in others if not unreadable[other])
    shape = -1, rows.count
    return epochs.reshape(shape), indices.reshape(shape)


def eval_order(
    paths: Sequence[str], reader: Reader, rows: Rows, first_step: int, last_step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns zeros and the index of each image of this process: int64 [step, row].

    The index is -1 for rows beyond the last image, and for images that could not be read.

    Args: as `train_order`.
    """
    starts = np.arange(first_step, last_step) * rows.batch_size + rows.start
    indices = starts[:, None] + np.arange(rows.count)
    indices[indices >= len(paths)] = NO_IMAGE
    bad = reader.bad
    if len(bad):
        unreadable = np.array([path in bad for path in paths])
        indices[(indices >= 0) & unreadable[indices]] = NO_IMAGE
    return np.zeros_like(indices), indices
