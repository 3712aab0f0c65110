"""The images of compare_input.py: many distinct photographs, cut out of a few."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from input_side import LABELS, image_paths
from PIL import Image, ImageOps

from mlcls_jax.benchmark.synthetic_images import CLASSES, HEIGHT, WIDTH
from mlcls_jax.system.files import write_text

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LEAST_SCALE = 0.7  # of a cut, as a share of the largest one's side
QUALITY = 90
POSITIVE_EVERY = 16  # a class is on each 16th image


def ensure_images(folder: Path, photos: Path, count: int) -> list[Path]:
    """The images of a folder, which are made if it has no labels.csv yet.

    Raises:
        ValueError: labels.csv names no image, or as `write_images`.
    """
    if not (folder / LABELS).is_file():
        write_images(folder, photos, count)
    images = [Path(path) for path in image_paths(folder)]
    if not images:
        raise ValueError(f"{folder / LABELS} names no image; remove it to have some made")
    return images


def write_images(folder: Path, photos: Path, count: int) -> None:
    """Writes JPEGs of 640x480 pixels, the photographs taking turns, then labels.csv.

    Each is a random 4:3 part of a photograph, a function of its number alone.

    Raises:
        ValueError: no photographs there.
    """
    files = photograph_files(photos)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:04}.jpg" for number in range(count)]
    for first, file in enumerate(files[:count]):
        with Image.open(file) as photo:
            upright = ImageOps.exif_transpose(photo).convert("RGB")
        for number in range(first, count, len(files)):
            cut = random_cut(upright, np.random.default_rng([0, number]))
            cut.save(folder / names[number], quality=QUALITY)
    lines = [["filename", *(f"class{label:02}" for label in range(CLASSES))]]
    for number, name in enumerate(names):
        there = [int((number + label) % POSITIVE_EVERY == 0) for label in range(CLASSES)]
        lines.append([name, *map(str, there)])
    write_text(folder / LABELS, "".join(",".join(line) + "\n" for line in lines))


def photograph_files(folder: Path) -> list[Path]:
    """The images that lie in a folder, by name.

    Raises:
        ValueError: there are none.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    files = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"--photos {folder}: no photographs there ({', '.join(SUFFIXES)})")
    return files


def random_cut(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of the shape 4:3, 0.7 to 1 of the largest one's side, anywhere; 640x480 pixels."""
    largest = min(photo.width / WIDTH, photo.height / HEIGHT)
    scale = largest * rng.uniform(LEAST_SCALE, 1)
    width, height = scale * WIDTH, scale * HEIGHT
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    box = (left, top, left + width, top + height)
    return photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box)


def mean_kilobytes(images: Iterable[Path]) -> float:
    """Of the files, in units of 1000 bytes."""
    return float(np.mean([path.stat().st_size for path in images])) / 1000
