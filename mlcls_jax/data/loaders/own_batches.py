"""Training batches from the user's own iterator, in place of those that are read from files."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.loaders.loader import Rows

# The first step -> pairs (images, labels) of this process's rows of that step and the later ones.
OwnBatches = Callable[[int], Iterator[Any]]


def own_batches(given: Iterable[Any] | OwnBatches) -> OwnBatches:
    """Returns a function from the first step to batches.

    Args:
        given: such a function, which makes a run that continues exact; or an iterable of batches,
            which a run takes from its beginning, also when it continues.
    """
    if callable(given):
        return given
    batches = iter(given)
    return lambda first_step: batches


def checked_batches(
    batches: OwnBatches,
    first_step: int,
    last_step: int,
    rows: Rows,
    image_shape: tuple[int, int, int],
    classes: int,
) -> Iterator[Batch]:
    """Yields the batches of steps first_step to last_step - 1, after checking their shapes.

    Args:
        batches: the user's.
        first_step, last_step: see `train_batches`.
        rows: the rows of this process.
        image_shape: height, width and channels of an image.
        classes: number of classes.

    Raises:
        ValueError: a batch has another shape or type, or there are too few.
    """
    source = iter(batches(first_step))
    shapes = [rows.count, *image_shape], [rows.count, classes]
    for step in range(first_step, last_step):
        try:
            images, labels = (np.asarray(part) for part in next(source))
        except StopIteration:
            raise ValueError(
                f"batches: they end before step {step + 1} of {last_step}; repeat them endlessly"
            ) from None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"batches: step {step} is not a pair of images and labels ({error})"
            ) from error
        if [list(images.shape), list(labels.shape)] != list(shapes) or images.dtype != np.uint8:
            raise ValueError(
                f"batches: step {step} has images {images.dtype} {list(images.shape)} and labels "
                f"{list(labels.shape)}; they must be uint8 {shapes[0]} and int8 {shapes[1]}"
            )
        if not ((labels == UNKNOWN) | ((labels >= 0) & (labels <= 1))).all():
            raise ValueError(f"batches: step {step} has labels other than 0 to 1 and -1 (unknown)")
        start = step * rows.batch_size + rows.start
        positions = np.arange(start, start + rows.count, dtype=np.uint32)
        yield Batch(images, labels.astype(np.float32), positions)
