"""Synthetic images for the benchmark, so that it needs no data set."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import simplejpeg

from mlcls_jax.system.files import write_text

CLASSES = 80  # as in COCO
HEIGHT, WIDTH = 480, 640
_TRAIN, _VAL = 112, 16
_QUALITY = 90
_NOISE = 4.0  # standard deviation; the files are then about as large as photographs, 76 KB


def write_images(folder: Path) -> tuple[str, str]:
    """Writes JPEGs of blurred colours with noise, and their labels.

    Args:
        folder: an existing folder.

    Returns:
        The paths for data.csv and data.images.
    """
    rng = np.random.default_rng(0)
    rows, names = [], []
    for index in range(_TRAIN + _VAL):
        colours = rng.uniform(0, 255, (6, 8, 3)).astype(np.float32)
        smooth = cv2.resize(colours, (WIDTH, HEIGHT))
        pixels = smooth + rng.normal(0, _NOISE, (HEIGHT, WIDTH, 1))
        jpeg = simplejpeg.encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8), quality=_QUALITY)
        names.append(f"{index:03}.jpg")
        (folder / names[-1]).write_bytes(jpeg)
        # Any _VAL consecutive images have a positive of every class, so each split does.
        rows.append([int((index + label) % _VAL == 0) for label in range(CLASSES)])
    table = pd.DataFrame(rows, columns=[f"class{label:02}" for label in range(CLASSES)])
    table.insert(0, "filename", names)
    table["split"] = ["train"] * _TRAIN + ["val"] * _VAL
    write_text(folder / "labels.csv", table.to_csv(index=False, lineterminator="\n"))
    return str(folder / "labels.csv"), str(folder)
