"""Repeat-factor sampling: images with rare classes are shown more often.

Gupta et al. 2019, "LVIS: a dataset for large vocabulary instance segmentation" (arXiv:1908.03195),
repeat an image as often as its rarest class asks for.  Detectron2 has the same without the root
(REPEAT_SQRT=False).  Both make an epoch longer.  Here an epoch keeps its number of images, so that
durations and schedules keep their meaning: images with rare classes take the places of others.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int, Int8

from mlcls_jax.config import Data
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.sampling import Repeats
from mlcls_jax.system.console import quoted

_FIELD = "data.oversample="  # begins the note of a table
_ROWS = 4096  # images whose factors are computed at once


def class_factors(
    positives: Int[np.ndarray, " class"], images: int, kind: str, threshold: float, largest: float
) -> tuple[Float[np.ndarray, " class"], float]:
    """Returns the repeat factor of each class, and the threshold.

    With f, the share of the images on which a class is present, and the threshold t, the factor is
    max(1, sqrt(t / f)), or max(1, t / f) without the root.  A class without images has the factor
    1.

    Args:
      positives: the number of images on which each class is present.
      images: the number of images.
      kind: "sqrt", or "balanced", which has no root.
      threshold: t, the share below which a class is rare; 0: the median of the classes with images.
      largest: limit of the factors, at least 1.

    >>> factors, threshold = class_factors(np.array([8, 2, 1]), 16, "balanced", 0.0, largest=10.0)
    >>> factors.tolist(), threshold
    ([1.0, 1.0, 2.0], 0.125)
    """
    shares, factors = positives / images, np.ones(len(positives))
    present = positives > 0
    if not threshold and present.any():
        threshold = float(np.median(shares[present]))
    factors[present] = threshold / shares[present]
    if kind == "sqrt":
        factors = np.sqrt(factors)
    return np.clip(factors, 1.0, largest), threshold


def image_factors(
    labels: Int8[np.ndarray, "image class"], of_classes: Float[np.ndarray, " class"]
) -> Float[np.ndarray, " image"]:
    """Returns the repeat factor of each image: the largest of its classes, or 1 without any.

    Args:
      labels: 1 (present), 0 (absent) or UNKNOWN, which does not count as present.
      of_classes: the factor of each class, at least 1.

    >>> image_factors(np.int8([[1, 1], [1, 0], [0, -1]]), np.array([1.5, 3.0])).tolist()
    [3.0, 1.5, 1.0]
    """
    factors = np.ones(len(labels))
    for start in range(0, len(labels), _ROWS):
        present = labels[start : start + _ROWS] == 1
        factors[start : start + _ROWS] = np.where(present, of_classes, 1.0).max(1, initial=1.0)
    return factors


def with_repeats(table: LabelTable, data: Data) -> LabelTable:
    """Returns a table of training images with the repeats that the config asks for, and a note.

    Args:
      table: the training images.
      data: its oversample, oversample_threshold and oversample_max are used.
    """
    if data.oversample == "none":
        return table
    of_classes, threshold = class_factors(
        table.positives,
        len(table),
        data.oversample,
        data.oversample_threshold,
        data.oversample_max,
    )
    factors = image_factors(table.labels, of_classes)
    if not np.ptp(factors):
        note = "changes nothing, because all images of train have the same factor"
        repeats = None
    else:
        repeats = Repeats(factors)
        note = _note(table, of_classes, threshold, repeats)
    note = f"{_FIELD}{data.oversample} {note}"
    return replace(table, repeats=repeats, notes=(*table.notes, note))


def without_repeats(table: LabelTable) -> LabelTable:
    """Returns a table as it was before `with_repeats`."""
    notes = tuple(note for note in table.notes if not note.startswith(_FIELD))
    return replace(table, repeats=None, notes=notes)


def oversampled(splits: Mapping[str, LabelTable], data: Data) -> dict[str, LabelTable]:
    """Returns the splits, with repeats in train if the config asks for them; see `with_repeats`."""
    return {**splits, "train": with_repeats(splits["train"], data)}


def _note(table: LabelTable, of_classes: np.ndarray, threshold: float, repeats: Repeats) -> str:
    """What is repeated, in words."""
    most = np.flatnonzero(of_classes == of_classes.max())
    rarest = int(most[np.argmin(table.positives[most])])
    return (
        f"shows images of rare classes ({(of_classes > 1).sum()} of {len(of_classes)}, in fewer "
        f"than {threshold:.2%} of train) up to {of_classes[rarest]:.1f} times as often as "
        f"others ({quoted([table.classes[rarest]])}, in {table.positives[rarest]} of {len(table)} "
        f"images); an epoch has as many, of which about {repeats.distinct:.0f} are different"
    )
