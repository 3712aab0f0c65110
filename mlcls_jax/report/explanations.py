"""Grad-CAM maps of the images in the report.

Apart from the thumbnails, because it imports JAX, which a report without maps does not need.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlcls_jax.config.schema import image_size
from mlcls_jax.data.images.transforms import seen_box
from mlcls_jax.data.loaders.loader import make_reader
from mlcls_jax.explain.grad_cam import overlay
from mlcls_jax.explain.overlays import class_maps
from mlcls_jax.report.thumbnails import Draw, Explain
from mlcls_jax.run.trained_model import load_trained_model


def explain_by(workdir: Path) -> Explain:
    """Returns a function that explains images by the best checkpoint of a run.

    The checkpoint is read when that function is called; it then raises a ValueError if there is
    none, as in `load_trained_model`.  All images must be readable.

    Args:
        workdir: folder of the run.
    """

    def explain(images: Sequence[tuple[str, int]]) -> list[Draw]:
        if not images:
            return []
        run = load_trained_model(workdir, "best")
        paths = [path for path, _ in images]
        chosen = np.array([[column] for _, column in images], np.int32)
        maps = class_maps(
            run, paths, chosen, make_reader(run.config.data, run.network.in_channels, len(paths))
        )
        size, resize = image_size(run.config.model), run.config.augment.eval_resize
        return [_draw(heat[0], size, resize) for heat in maps]

    return explain


def _draw(heat: np.ndarray, size: int, resize: str) -> Draw:
    """How to draw a map; size, resize: model.image_size and augment.eval_resize."""

    def draw(image: np.ndarray) -> np.ndarray:
        height, width, _ = image.shape
        return overlay(image, heat, seen_box(height, width, size, resize))

    return draw
