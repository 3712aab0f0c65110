"""The images that the report shows: the surest mistakes and the best hits, small."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from mlcls_jax.config import Config
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.images.decoding import ImageError, open_image, read_file
from mlcls_jax.data.images.transforms import seen_box, shrink
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.loaders.threads import make_reader
from mlcls_jax.explain.grad_cam import overlay
from mlcls_jax.explain.overlays import class_maps
from mlcls_jax.run.trained_model import load_trained_model

# (path and class of each image) -> for each, what draws its map over the image.
Draw = Callable[[np.ndarray], np.ndarray]
Explain = Callable[[Sequence[tuple[str, int]]], list[Draw]]


def explain_by(workdir: Path) -> Explain:
    """By the best checkpoint of a run, which is read at the first call.

    Args:
        workdir: of the run. The images are ones that can be read.

    Raises:
        ValueError: at the call; see `load_run`.
    """

    def explain(asked: Sequence[tuple[str, int]]) -> list[Draw]:
        if not asked:
            return []
        run = load_trained_model(workdir, "best")
        paths = [path for path, _ in asked]
        chosen = np.array([[column] for _, column in asked], np.int32)
        maps = class_maps(run, paths, chosen, make_reader(run.config.data, len(paths)))
        return [_draw(run.config, heat[0]) for heat in maps]

    return explain


def _draw(config: Config, heat: np.ndarray) -> Draw:
    size, how = image_size(config), config.augment.eval_resize

    def draw(image: np.ndarray) -> np.ndarray:
        height, width, _ = image.shape
        return overlay(image, heat, seen_box(height, width, size, how))

    return draw


SHOWN = 12  # of each kind
SIDE = 144  # pixels of the short side; the long one is cut off at twice as many
QUALITY = 70  # JPEG: about 5 kB each
LABELS = 6  # in a caption


@dataclass(frozen=True)
class Example:
    """An image and what is said of it.

    row: in the table.
    column: of the class in question; of a hit, of the surest class that is there.
    name: of this class; "" for a hit, which is about all.
    probability: of this class, or of the least sure of the decisions.
    labels: names of the classes that are there.
    """

    row: int
    filename: str
    column: int
    name: str
    probability: float
    labels: tuple[str, ...]


def mistakes(
    table: LabelTable, probabilities: np.ndarray, present: np.ndarray, label: int
) -> list[Example]:
    """The surest mistakes on labels that are 1 (missed) or 0 (wrongly seen), one an image."""
    wrong = (table.labels == label) & (present != (label == 1))
    sure = np.where(wrong, np.abs(label - probabilities), -1.0)
    worst = sure.argmax(axis=1)
    rows = _first(sure.max(axis=1))
    return [_example(table, probabilities, row, int(worst[row])) for row in rows]


def hits(table: LabelTable, probabilities: np.ndarray, present: np.ndarray) -> list[Example]:
    """Images with something on them on which every decision is right, the surest first."""
    labels = table.labels
    right = ((labels == UNKNOWN) | (present == (labels == 1))).all(axis=1)
    right &= (labels == 1).any(axis=1)
    sure = np.where(labels == 1, probabilities, 1 - probabilities)
    sure = np.where(labels == UNKNOWN, 1.0, sure).min(axis=1)
    surest = np.where(labels == 1, probabilities, -1.0).argmax(axis=1)
    rows = _first(np.where(right, sure, -1.0))
    return [
        Example(
            row,
            table.filenames[row],
            int(surest[row]),
            "",
            float(sure[row]),
            _labels(table, row),
        )
        for row in rows
    ]


class Thumbnails:
    """Small images as data addresses; each is decoded once, but for those with a map."""

    def __init__(self, max_pixels: int):
        """max_pixels: see `open_image`."""
        self._max_pixels = max_pixels
        self._made: dict[str, str] = {}

    def of(self, path: str) -> str:
        """The address of an image; "" where it cannot be read."""
        if path not in self._made:
            self._made[path] = self._make(path)
        return self._made[path]

    def with_map(self, path: str, draw: Callable[[np.ndarray], np.ndarray]) -> str:
        """As `of`, with a map drawn over it."""
        return self._make(path, draw)

    def _make(self, path: str, draw: Callable[[np.ndarray], np.ndarray] = np.asarray) -> str:
        try:
            image = draw(shrink(open_image(read_file(path), self._max_pixels), SIDE))
        except (ImageError, OSError):
            return ""
        for axis in (0, 1):
            spare = max(image.shape[axis] - 2 * SIDE, 0)
            begin = spare // 2
            image = np.take(image, range(begin, image.shape[axis] - spare + begin), axis=axis)
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _first(sure: np.ndarray) -> list[int]:
    """Rows by falling value, without the negative ones."""
    order = np.argsort(-sure, kind="stable")[:SHOWN]
    return [int(row) for row in order if sure[row] >= 0]


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
    there = np.flatnonzero(table.labels[row] == 1)
    more = (f"{len(there) - LABELS} more",) if len(there) > LABELS else ()
    return tuple(table.classes[c] for c in there[:LABELS]) + more
