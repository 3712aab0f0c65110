"""How like our pictures are to those that Pillow decodes at full size and resizes, antialiased."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mlcls_jax.data.images import eval_picture

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def mean_likeness(pictures: Iterable[Path], sizes: Sequence[int]) -> dict[str, list[float]]:
    """Interpolation -> mean PSNR over the pictures at each size, in dB.

    Ours are those of evaluation, squashed to a square; Pillow's have the same interpolation.
    """
    found = {name: [[] for _ in sizes] for name in FILTERS}
    for path in pictures:
        contents = path.read_bytes()
        with Image.open(path) as file:
            full = file.convert("RGB")
        for name, kernel in FILTERS.items():
            for values, size in zip(found[name], sizes, strict=True):
                ours = eval_picture(contents, size=size, eval_resize="squash", interpolation=name)
                values.append(psnr(np.asarray(ours), np.asarray(full.resize((size, size), kernel))))
    return {name: [float(np.mean(v)) for v in of_sizes] for name, of_sizes in found.items()}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures of one shape, in dB."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
