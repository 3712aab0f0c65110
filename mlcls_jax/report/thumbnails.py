"""Images in the report: the most confident mistakes and the best predictions, as thumbnails."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg

from mlcls_jax.data.images.channels import as_rgb
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.images.transforms import shrink
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.diagnosis.label_errors import Suspect

# Draws the map of one image over it.
Draw = Callable[[np.ndarray], np.ndarray]
# Returns how to draw the map of each (path, class).
Explain = Callable[[Sequence[tuple[str, int]]], list[Draw]]


SHOWN = 12  # images of each kind while the run trains
SIDE = 192  # pixels of the short side, or less where the long side has twice as many
QUALITY = 70  # JPEG: about 5 kB each


@dataclass(frozen=True)
class Example:
    """An image of the report and its caption.

    Attributes:
        row: row of the image in the table.
        filename: file name of the image.
        column: column of the mistaken class; for a hit, of its most probable positive class.
        name: name of the mistaken class; "" for a hit, which is about all classes.
        probability: probability of the mistaken class; for a hit, the confidence in its least
            certain class.
        labels: names of the positive classes.
    """

    row: int
    filename: str
    column: int
    name: str
    probability: float
    labels: tuple[str, ...]


def wrong_labels(table: LabelTable, present: np.ndarray, label: int) -> np.ndarray:
    """Returns where a label of 1 (missed) or 0 is predicted as the other: bool [image, class]."""
    return (table.labels == label) & (present != (label == 1))


def right_images(table: LabelTable, present: np.ndarray) -> np.ndarray:
    """Returns which images have a positive label and no mistake: bool [image]."""
    labels = table.labels
    right = ((labels == UNKNOWN) | (present == (labels == 1))).all(axis=1)
    return right & (labels == 1).any(axis=1)


def mistakes(
    table: LabelTable,
    probabilities: np.ndarray,
    present: np.ndarray,
    label: int,
    most: int = SHOWN,
) -> list[Example]:
    """Returns the most confident mistakes on labels 1 (missed) or 0, at most one per image."""
    wrong = wrong_labels(table, present, label)
    confidence = np.where(wrong, np.abs(label - probabilities), -1.0)
    worst = confidence.argmax(axis=1)
    rows = _highest(confidence.max(axis=1), most)
    return [_example(table, probabilities, row, int(worst[row])) for row in rows]


def suspects(
    table: LabelTable, probabilities: np.ndarray, found: Sequence[Suspect]
) -> list[Example]:
    """Returns labels that may be wrong, in the order of what `label_errors` has found."""
    return [_example(table, probabilities, one.row, one.column) for one in found]


def hits(
    table: LabelTable, probabilities: np.ndarray, present: np.ndarray, most: int = SHOWN
) -> list[Example]:
    """Returns images with a positive label and no mistake, the most confident first."""
    labels, right = table.labels, right_images(table, present)
    confidence = np.where(labels == 1, probabilities, 1 - probabilities)
    confidence = np.where(labels == UNKNOWN, 1.0, confidence).min(axis=1)
    most_probable = np.where(labels == 1, probabilities, -1.0).argmax(axis=1)
    rows = _highest(np.where(right, confidence, -1.0), most)
    return [
        Example(
            row,
            table.filenames[row],
            int(most_probable[row]),
            "",
            float(confidence[row]),
            _labels(table, row),
        )
        for row in rows
    ]


class Thumbnails:
    """Thumbnails as data URLs; each is made once, except those with a map."""

    def __init__(self, pixels: PixelFormat):
        """Makes no thumbnail yet; pixels: how images are decoded (`open_image`)."""
        self._pixels = pixels
        self._made: dict[str, str] = {}

    def of(self, path: str) -> str:
        """Returns the thumbnail of an image as a data URL; "" if it cannot be read."""
        if path not in self._made:
            self._made[path] = self._make(path)
        return self._made[path]

    def with_map(self, path: str, draw: Callable[[np.ndarray], np.ndarray]) -> str:
        """Returns the thumbnail of an image with a map drawn over it."""
        return self._make(path, draw)

    def _make(self, path: str, draw: Callable[[np.ndarray], np.ndarray] = np.asarray) -> str:
        try:
            file = open_image(read_file(path), self._pixels)
            short, long = sorted((file.height, file.width))
            image = draw(shrink(file, max(min(SIDE, 2 * SIDE * short // long), 1)))
        except (ImageError, OSError):
            return ""
        jpeg = simplejpeg.encode_jpeg(as_rgb(image), quality=QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _highest(confidence: np.ndarray, most: int) -> list[int]:
    """Rows with the highest values, without negative ones."""
    order = np.argsort(-confidence, kind="stable")[:most]
    return [int(row) for row in order if confidence[row] >= 0]


def _example(table: LabelTable, probabilities: np.ndarray, row: int, column: int) -> Example:
    return Example(
        row,
        table.filenames[row],
        column,
        table.classes[column],
        float(probabilities[row, column]),
        _labels(table, row),
    )


def _labels(table: LabelTable, row: int) -> tuple[str, ...]:
    return tuple(table.classes[c] for c in np.flatnonzero(table.labels[row] == 1))
