"""Resizes, crops and augments one image to uint8 [size, size, channel].

Decoding at a fraction of the size (decoding.py) does most of the shrinking; the rest is bilinear.
The documentation compares the result with full decoding and an antialiased resize. All random
numbers come from the generator that is passed in.
"""

import math
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.data.images.augment import change_pixels, changes_pixels
from mlcls_jax.data.images.channels import per_group
from mlcls_jax.data.images.decoding import ImageFile
from mlcls_jax.data.images.symmetry import random_turn, turn_image, uniforms_for
from mlcls_jax.data.sampling import ImageRandom

_INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
CROP_ATTEMPTS = 10
CROP_UNIFORMS = 4  # random numbers of an attempt: area, aspect ratio, top, left
# Both interpolations use only neighbouring pixels; a side that shrinks by this factor is averaged.
AVERAGED_FROM = 2
RATIO = (3 / 4, 4 / 3)
# Grey of the borders of a letterbox, as in YOLOv5: the mean of ImageNet over pixels and colours, so
# that it is close to 0 once normalised, whatever the weights and the number of channels.
PADDING = 114


@dataclass(frozen=True)
class Box:
    """A rectangular part of an image, in pixels, which may extend beyond the image."""

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
      image: uint8 [height, width, channel].
      size: side of the result in pixels.
      interpolation: "bilinear" or "bicubic" (Keys, a = -0.75).
      out: optional contiguous uint8 [size, size, channel] to write to.

    Returns:
      uint8 [size, size, channel]. Without `out`, this is the image itself if it has the size.

    Raises:
      ValueError: the interpolation is unknown.
    """
    if interpolation not in _INTERPOLATIONS:
        known = tuple(_INTERPOLATIONS)
        raise ValueError(f"interpolation {interpolation!r} is unknown; use one of {known}")
    return _resized(image, (size, size), interpolation, out)


def _resized(
    image: np.ndarray, sides: tuple[int, int], interpolation: str, out: np.ndarray | None = None
) -> np.ndarray:
    """The image with another height and width; see `resize`."""
    if image.shape[:2] == sides:
        if out is None:
            return image
        np.copyto(out, image)
        return out
    height, width = (
        new if old >= AVERAGED_FROM * new else old
        for old, new in zip(image.shape[:2], sides, strict=True)
    )
    if (height, width) != image.shape[:2]:
        image = _scaled(image, (width, height), cv2.INTER_AREA)
    return _scaled(image, (sides[1], sides[0]), _INTERPOLATIONS[interpolation], out)


def _scaled(
    image: np.ndarray, size: tuple[int, int], interpolation: int, out: np.ndarray | None = None
) -> np.ndarray:
    """The image at another size (width, height)."""
    return per_group(image, partial(cv2.resize, dsize=size, interpolation=interpolation), out)


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


def letterbox(height: int, width: int, size: int) -> Box:
    """Returns the part of a square that an image fills with its long side, in the centre.

    Args:
      height, width: size of the image in pixels.
      size: side of the square in pixels.

    >>> letterbox(height=300, width=400, size=224)
    Box(top=28, left=0, height=168, width=224)
    """
    longest = max(height, width)
    rows, columns = (max(round(side * size / longest), 1) for side in (height, width))
    return Box((size - rows) // 2, (size - columns) // 2, rows, columns)


def seen_box(height: int, width: int, size: int, eval_resize: str) -> Box:
    """Returns the part of an image that the network sees in evaluation.

    The square of a letterbox extends beyond the image.

    Args:
      height, width: size of the image in pixels.
      size: side of the network's input in pixels.
      eval_resize: "squash", "center_crop" or "letterbox".
    """
    if eval_resize == "center_crop":
        return center_box(height, width, size)
    if eval_resize == "squash":
        return Box(0, 0, height, width)
    inner = letterbox(height, width, size)
    down, across = height / inner.height, width / inner.width
    start = -round(inner.top * down), -round(inner.left * across)
    return Box(*start, round(size * down), round(size * across))


def uniforms_needed(augment: Augment) -> int:
    """Returns how many random numbers the symmetry and the crop of an image take."""
    crop = CROP_ATTEMPTS * CROP_UNIFORMS if augment.train_resize == "random_crop" else 0
    return uniforms_for(augment.symmetry) + crop


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
      uint8 [size, size, channel].

    Raises:
      ImageError: see `ImageFile`.
    """
    uniforms, drawn = random.uniforms, uniforms_for(augment.symmetry)
    turn = random_turn(uniforms[0], augment.symmetry) if drawn else 0
    target = None if turn else out
    if augment.train_resize == "random_crop":
        box = random_box(source.height, source.width, uniforms[drawn:], augment.min_scale)
        image = resize(_part(source, box, size), size, augment.interpolation, target)
    else:
        image = square(source, size, augment.train_resize, augment.interpolation, target)
    if turn:
        image = turn_image(image, turn, out)
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
    how: str,
    interpolation: str,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes an image to a square without augmentation.

    Args:
      source: the image, with its header read.
      size: side of the result in pixels.
      how: "squash", "center_crop" or "letterbox".
      interpolation, out: see `resize`.

    Returns:
      uint8 [size, size, channel].

    Raises:
      ImageError: see `ImageFile`.
    """
    if how != "letterbox":
        box = seen_box(source.height, source.width, size, how)
        return resize(_part(source, box, size), size, interpolation, out)
    inner = letterbox(source.height, source.width, size)
    sides = inner.height, inner.width
    image = _resized(source.decode(*sides), sides, interpolation)
    if out is None:
        out = np.empty((size, size, *image.shape[2:]), np.uint8)
    out[:] = PADDING
    bottom, right = inner.top + inner.height, inner.left + inner.width
    out[inner.top : bottom, inner.left : right] = image
    return out


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
      uint8 [height, width, channel]; the short side may be slightly smaller than `side`.

    Raises:
      ImageError: see `ImageFile`.
    """
    height, width = short_side(source.height, source.width, side)
    image = source.decode(height, width)
    if image.shape[0] <= height or image.shape[1] <= width:
        return image
    return _scaled(image, (width, height), cv2.INTER_AREA)


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
