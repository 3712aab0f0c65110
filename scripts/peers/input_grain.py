"""Grain's sides of compare_input.py: a MapDataset with OpenCV and one thread per core."""

from importlib.metadata import version
from typing import Any

import cv2
import grain  # pyright: ignore[reportMissingImports]  # in its own environment
import numpy as np
from input_side import image_paths
from peer_worker import Step, cores

# Linear reads 2x2 pixels however much the image shrinks; area averages all pixels.
INTERPOLATIONS = {"grain": cv2.INTER_AREA, "grain-linear": cv2.INTER_LINEAR}


def versions() -> str:
    """Returns the versions of the libraries."""
    return f"grain {version('grain')} with OpenCV {cv2.__version__}"


def build(side: str, folder: str, size: int, batch: int) -> dict[str, Step]:
    """Returns the steps for peer_worker.py; the images are resized whole."""
    interpolation = INTERPOLATIONS[side]
    cv2.setNumThreads(1)  # Grain has its own threads.

    def load(path: str) -> np.ndarray:
        image: Any = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
        return cv2.resize(image, (size, size), interpolation=interpolation)

    images = grain.MapDataset.source(image_paths(folder)).seed(0).shuffle().repeat().map(load)
    options = grain.ReadOptions(num_threads=cores(), prefetch_buffer_size=2 * batch)
    batches = iter(images.to_iter_dataset(options).batch(batch))
    return {"batch": lambda: next(batches)}
