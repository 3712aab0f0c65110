"""Maps of evidence for the pictures of the report, beside their thumbnails."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlcls_jax.config import Config
from mlcls_jax.data.images import seen_box
from mlcls_jax.data.pipeline import make_reader
from mlcls_jax.explain import overlay
from mlcls_jax.overlays import class_maps
from mlcls_jax.programs import image_size
from mlcls_jax.workdir import load_run

# (path and class of each picture) -> for each, what draws its map over the picture.
Draw = Callable[[np.ndarray], np.ndarray]
Explain = Callable[[Sequence[tuple[str, int]]], list[Draw]]


def explain_by(workdir: Path) -> Explain:
    """By the best checkpoint of a run, which is read at the first call.

    Args:
        workdir: of the run. The pictures are ones that can be read.

    Raises:
        ValueError: at the call; see `load_run`.
    """

    def explain(asked: Sequence[tuple[str, int]]) -> list[Draw]:
        if not asked:
            return []
        run = load_run(workdir, "best")
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
