"""Similarity of our images to those that Pillow decodes at full size and resizes, antialiased."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.transforms import eval_image

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def mean_likeness(images: Iterable[Path], sizes: Sequence[int]) -> dict[str, list[float]]:
    """Returns {Pillow's filter: mean PSNR in dB over the images for each size}.

    Our images are those of evaluation, squashed to a square as by default.
    """
    found = {name: [[] for _ in sizes] for name in FILTERS}
    for path in images:
        contents = path.read_bytes()
        with Image.open(path) as file:
            full = file.convert("RGB")
        for index, size in enumerate(sizes):
            ours = eval_image(open_image(contents), size=size, augment=Augment())
            for name, kernel in FILTERS.items():
                theirs = np.asarray(full.resize((size, size), kernel))
                found[name][index].append(psnr(ours, theirs))
    return {name: [float(np.mean(v)) for v in values] for name, values in found.items()}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of two uint8 images of the same shape, in dB."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
