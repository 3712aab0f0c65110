"""Which image each row of each batch is, for many steps at once."""

from collections.abc import Sequence

import numpy as np

from mlcls_jax.data.images.bad_images import BadImages
from mlcls_jax.data.loaders.loader import Rows
from mlcls_jax.data.sampling import Repeats, stream_order, substitutes

NO_IMAGE = -1  # in place of an index: a black image


def stream_rows(
    images: int,
    seed: int,
    rows: Rows,
    first_step: int,
    last_step: int,
    repeats: Repeats | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epoch and the index of each image of this process: int64 [step, row].

    Args:
      images: the number of training images.
      seed: of the order.
      rows: the rows of this process.
      first_step: the first step.
      last_step: the step after the last one.
      repeats: how often each image is in an epoch; None: once.
    """
    positions = _positions(rows, first_step, last_step)
    epochs, indices = stream_order(positions.ravel(), images, seed, repeats)
    return epochs.reshape(positions.shape), indices.reshape(positions.shape)


def train_order(
    paths: Sequence[str],
    seed: int,
    bad: BadImages,
    rows: Rows,
    first_step: int,
    last_step: int,
    repeats: Repeats | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `stream_rows` with other images in place of those that could not be read.

    They are those that `threads.train_batches` takes.

    Args:
      paths: the training images.
      seed, rows, first_step, last_step, repeats: see `stream_rows`.
      bad: the images that could not be read.
    """
    epochs, indices = stream_rows(len(paths), seed, rows, first_step, last_step, repeats)
    if len(bad):
        unreadable = bad.among(paths)
        for place in zip(*np.nonzero(unreadable[indices]), strict=True):
            others = substitutes(seed, int(epochs[place]), int(indices[place]), len(paths))
            indices[place] = next(other for other in others if not unreadable[other])
    return epochs, indices


def eval_order(
    paths: Sequence[str], bad: BadImages, rows: Rows, first_step: int, last_step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns zeros and the index of each image of this process: int64 [step, row].

    The index is -1 for rows beyond the last image, and for images that could not be read.

    Args: as `train_order`.
    """
    indices = _positions(rows, first_step, last_step)
    indices[indices >= len(paths)] = NO_IMAGE
    if len(bad):
        indices[(indices >= 0) & bad.among(paths)[indices]] = NO_IMAGE
    return np.zeros_like(indices), indices


def _positions(rows: Rows, first_step: int, last_step: int) -> np.ndarray:
    """The positions of this process's rows: int64 [step, row]."""
    starts = np.arange(first_step, last_step) * rows.batch_size + rows.start
    return starts[:, None] + np.arange(rows.count)
