"""Functions shared by the sides of compare_input.py; imports the standard library only."""

import csv
import math
from pathlib import Path
from random import Random

LABELS = "labels.csv"
CROP_SHARE = 0.08  # least share of the area in a random crop, as published and in torchvision
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10


def image_paths(folder: str | Path) -> list[str]:
    """Returns the paths of the images that the folder's labels.csv names."""
    with (Path(folder) / LABELS).open(newline="") as file:
        return [str(Path(folder, row["filename"])) for row in csv.DictReader(file)]


def random_box(rng: Random, width: int, height: int) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) of a random resized crop.

    It is drawn like torchvision's RandomResizedCrop (Szegedy et al. 2015, arXiv:1409.4842): the
    share of the area and the logarithm of width / height are uniform; after ten attempts to fit it
    is the largest central crop within the ratios.
    """
    low, high = CROP_RATIO
    for _ in range(CROP_ATTEMPTS):
        area = rng.uniform(CROP_SHARE, 1) * width * height
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
