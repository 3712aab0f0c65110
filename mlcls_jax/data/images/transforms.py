"""Resizes, crops and augments one image to uint8 [size, size, 3].

Decoding at a fraction of the size (decoding.py) does most of the shrinking; the rest is bilinear.
The documentation compares the result with full decoding and an antialiased resize. All random
numbers come from the generator that is passed in.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.data.images.augment import change_pixels, changes_pixels
from mlcls_jax.data.images.decoding import ImageFile
from mlcls_jax.data.sampling import ImageRandom

_INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
CROP_ATTEMPTS = 10
CROP_UNIFORMS = 4  # random numbers of an attempt: area, aspect ratio, top, left
# Both interpolations use only neighbouring pixels; a side that shrinks by this factor is averaged.
AVERAGED_FROM = 2
RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Box:
    """A rectangular part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def resize(
    image: np.ndarray,
    size: int,
    interpolation: str = "bilinear",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Resizes an image to a square without keeping its aspect ratio.

    Args:
      image: uint8 [height, width, 3].
      size: side of the result in pixels.
      interpolation: "bilinear" or "bicubic" (Keys, a = -0.75).
      out: optional contiguous uint8 [size, size, 3] to write to.

    Returns:
      uint8 [size, size, 3]. Without `out`, this is the image itself if it already has the size.

    Raises:
      ValueError: the interpolation is unknown.
    """
    if interpolation not in _INTERPOLATIONS:
        known = tuple(_INTERPOLATIONS)
        raise ValueError(f"interpolation {interpolation!r} is unknown; use one of {known}")
    if image.shape[:2] == (size, size):
        if out is None:
            return image
        np.copyto(out, image)
        return out
    height, width = (
        size if side >= AVERAGED_FROM * size else side for side in (image.shape[0], image.shape[1])
    )
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (size, size), dst=out, interpolation=_INTERPOLATIONS[interpolation])


def center_box(height: int, width: int, size: int) -> Box:
    """Returns the central square whose side is size / (size + 32) of the short side.

    This is the evaluation crop of the reference implementation (`preprocessing.py` of
    tensorflow/tpu/models/official/efficientnet).

    Args:
      height, width: size of the image in pixels.
      size: side of the network's input in pixels.
    """
    side = max(int(center_crop_share(size) * min(height, width)), 1)
    return Box((height - side + 1) // 2, (width - side + 1) // 2, side, side)


def seen_box(height: int, width: int, size: int, eval_resize: str) -> Box:
    """Returns the part of an image that the network sees in evaluation.

    Args:
      height, width: size of the image in pixels.
      size: side of the network's input in pixels.
      eval_resize: "squash" or "center_crop".
    """
    if eval_resize == "center_crop":
        return center_box(height, width, size)
    return Box(0, 0, height, width)


def uniforms_needed(augment: Augment) -> int:
    """Returns how many random numbers the mirroring and the crop of an image take."""
    crop = CROP_ATTEMPTS * CROP_UNIFORMS if augment.train_resize == "random_crop" else 0
    return int(augment.flip) + crop


def random_box(
    height: int,
    width: int,
    uniforms: np.ndarray,
    min_scale: float,
    ratio: tuple[float, float] = RATIO,
) -> Box:
    """Returns a random part of an image (Szegedy et al. 2015, arXiv:1409.4842).

    Its share of the area is uniform in [min_scale, 1], and the logarithm of its width / height is
    uniform within `ratio`. A part that does not fit is drawn again. After ten attempts, the result
    is the largest central part with an aspect ratio within `ratio`.

    Args:
      height, width: size of the image in pixels.
      uniforms: float64 [10 * 4] in [0, 1): four numbers for each attempt.
      min_scale: the smallest share of the area, in (0, 1].
      ratio: the smallest and largest width / height.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(CROP_ATTEMPTS):
        drawn = uniforms[attempt * CROP_UNIFORMS : (attempt + 1) * CROP_UNIFORMS].tolist()
        area = height * width * (min_scale + (1 - min_scale) * drawn[0])
        aspect = math.exp(low + (high - low) * drawn[1])
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = (height - rows + 1) * drawn[2], (width - columns + 1) * drawn[3]
            return Box(int(top), int(left), rows, columns)
    rows = max(min(height, round(width / ratio[0])), 1)
    columns = max(min(width, round(height * ratio[1])), 1)
    return Box((height - rows) // 2, (width - columns) // 2, rows, columns)


def train_image(
    source: ImageFile,
    random: ImageRandom,
    *,
    size: int,
    augment: Augment,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes and augments one training image.

    Args:
      source: the image, with its header read.
      random: the random numbers, of which `uniforms_needed` are drawn already.
      size: side of the result in pixels.
      augment: all its fields are used except eval_resize and those that mix images.
      out: see `resize`.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ImageError: see `ImageFile`.
    """
    uniforms = random.uniforms
    mirrored = augment.flip and uniforms[0] < 0.5
    if augment.train_resize == "random_crop":
        crop = uniforms[int(augment.flip) :]
        box = random_box(source.height, source.width, crop, augment.min_scale)
    else:
        box = Box(0, 0, source.height, source.width)
    image = _part(source, box, size)
    if mirrored:
        image = cv2.flip(resize(image, size, augment.interpolation), 1, dst=out)
    else:
        image = resize(image, size, augment.interpolation, out)
    if not changes_pixels(augment):
        return image
    changed = change_pixels(image, random.rest(), augment)
    if out is None:
        return changed
    if changed is not image:
        np.copyto(out, changed)
    return out


def eval_image(
    source: ImageFile, *, size: int, augment: Augment, out: np.ndarray | None = None
) -> np.ndarray:
    """Decodes one image for evaluation, with eval_resize and interpolation of `augment`.

    Args, returns, errors: as `train_image`.
    """
    return square(source, size, augment.eval_resize, augment.interpolation, out)


def square(
    source: ImageFile,
    size: int,
    eval_resize: str,
    interpolation: str,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes an image to a square without augmentation.

    Args:
      source: the image, with its header read.
      size: side of the result in pixels.
      eval_resize: "squash" or "center_crop".
      interpolation, out: see `resize`.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ImageError: see `ImageFile`.
    """
    box = seen_box(source.height, source.width, size, eval_resize)
    return resize(_part(source, box, size), size, interpolation, out)


def short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns height and width after shrinking the short side to `side`; never enlarges."""
    share = min(side / min(height, width), 1)
    return max(round(height * share), 1), max(round(width * share), 1)


def shrink(source: ImageFile, side: int) -> np.ndarray:
    """Decodes a whole image with a short side of about `side`; never enlarges it.

    Args:
      source: the image, with its header read.
      side: the short side of the result in pixels.

    Returns:
      uint8 [height, width, 3]; the short side may be slightly smaller than `side`.

    Raises:
      ImageError: see `ImageFile`.
    """
    height, width = short_side(source.height, source.width, side)
    image = source.decode(height, width)
    if image.shape[0] <= height or image.shape[1] <= width:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _part(source: ImageFile, box: Box, size: int) -> np.ndarray:
    """The box of an image, decoded about as large as a square of that size needs."""
    height, width = source.height, source.width
    if (box.height, box.width) == (height, width):
        return source.decode(size, size)
    image = source.decode(-(-size * height // box.height), -(-size * width // box.width))
    down, across = image.shape[0] / height, image.shape[1] / width
    top, left = round(box.top * down), round(box.left * across)
    rows, columns = max(round(box.height * down), 1), max(round(box.width * across), 1)
    top, left = min(top, image.shape[0] - 1), min(left, image.shape[1] - 1)
    return image[top : top + rows, left : left + columns]


def center_crop_share(size: int) -> float:
    """Returns the share of the short side that eval_resize="center_crop" keeps.

    The reference implementation crops 224 of 256 pixels, 240 of 272 and so on.

    Args:
      size: side of the network's input in pixels.
    """
    return size / (size + 32)
