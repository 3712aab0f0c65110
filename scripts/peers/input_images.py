"""The images of compare_input.py: many distinct crops of a few photographs."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from input_side import LABELS, image_paths
from PIL import Image, ImageOps

from mlcls_jax.benchmark.synthetic_images import CLASSES, HEIGHT, WIDTH
from mlcls_jax.system.files import write_text

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LEAST_SCALE = 0.7  # least side of a crop, as a share of the largest possible one
QUALITY = 90
POSITIVE_EVERY = 16  # each class is present on every 16th image


def ensure_images(
    folder: Path, photos: Path, count: int, sides: tuple[int, int] = (WIDTH, HEIGHT)
) -> list[Path]:
    """Returns the images of a folder, which are made if it has no labels.csv yet.

    Args:
        folder: the folder.
        photos: folder of the photographs that images are cut from.
        count: number of images.
        sides: width and height of the images in pixels.

    Raises:
        ValueError: labels.csv names no image, or there are no photographs to cut from.
    """
    if not (folder / LABELS).is_file():
        write_images(folder, photos, count, sides)
    images = [Path(path) for path in image_paths(folder)]
    if not images:
        raise ValueError(f"{folder / LABELS} names no image; remove it to make new images")
    return images


def write_images(folder: Path, photos: Path, count: int, sides: tuple[int, int]) -> None:
    """Writes JPEGs of these sides, cut from the photographs in turn, then labels.csv.

    Each is a random crop of a photograph, which depends on the number of the image only.

    Raises:
        ValueError: the folder has no photographs.
    """
    files = photograph_files(photos)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:04}.jpg" for number in range(count)]
    for first, file in enumerate(files[:count]):
        with Image.open(file) as photo:
            upright = ImageOps.exif_transpose(photo).convert("RGB")
        for index in range(first, count, len(files)):
            crop = random_crop(upright, np.random.default_rng([0, index]), sides)
            crop.save(folder / names[index], quality=QUALITY)
    lines = [["filename", *(f"class{label:02}" for label in range(CLASSES))]]
    for index, name in enumerate(names):
        present = [int((index + label) % POSITIVE_EVERY == 0) for label in range(CLASSES)]
        lines.append([name, *map(str, present)])
    write_text(folder / LABELS, "".join(",".join(line) + "\n" for line in lines))


def photograph_files(folder: Path) -> list[Path]:
    """Returns the image files of a folder, sorted by name.

    Raises:
        ValueError: the folder has none.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    files = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"--photos {folder} contains no photographs ({', '.join(SUFFIXES)})")
    return files


def random_crop(
    photo: Image.Image, rng: np.random.Generator, sides: tuple[int, int]
) -> Image.Image:
    """Returns a random crop, resized; before that it has 0.7 to 1 of the largest crop's sides."""
    largest = min(photo.width / sides[0], photo.height / sides[1])
    scale = largest * rng.uniform(LEAST_SCALE, 1)
    width, height = scale * sides[0], scale * sides[1]
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    box = (left, top, left + width, top + height)
    return photo.resize(sides, Image.Resampling.BICUBIC, box)


def mean_kilobytes(images: Iterable[Path]) -> float:
    """Returns the mean size of the files in units of 1000 bytes."""
    return float(np.mean([path.stat().st_size for path in images])) / 1000
