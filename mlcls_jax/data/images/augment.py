"""Augments square training images: colour jitter, RandAugment, cutout and random erasing.

Each operation is a few calls of OpenCV, which releases the GIL, or one table of 256 values. All
random numbers come from the generator that is passed in.

No library is used, because albumentations is no longer maintained and its successor is AGPL,
torchvision and Keras need a second framework and use its random generators, and dm-pix runs on the
accelerator, where every image of a batch would compute all operations of RandAugment.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from operator import attrgetter

import cv2
import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.config.extensions import resolve
from mlcls_jax.data.images.channels import per_group

_LEVELS = np.arange(256)
# Fields that `change_pixels` reads, which are off by default.
_PIXEL_CHANGES = (
    *("brightness", "contrast", "saturation", "hue"),
    *("rand_augment", "cutout", "erase", "custom"),
)
_pixel_changes = attrgetter(*_PIXEL_CHANGES)
_GREY = (128, 128, 128, 128)  # fills the area that a moved image uncovers, as in timm
# The rectangle's share of the area and its height / width (Zhong et al., section 3.2 and code).
_ERASED, _ERASED_RATIO, _ERASE_ATTEMPTS = (0.02, 0.4), (0.3, 1 / 0.3), 10


def changes_pixels(augment: Augment) -> bool:
    """Returns whether `change_pixels` would do anything."""
    return any(_pixel_changes(augment))


def without_pixel_changes(augment: Augment) -> Augment:
    """Returns the augmentation without what `change_pixels` does."""
    off = {name: getattr(Augment(), name) for name in _PIXEL_CHANGES}
    return dataclasses.replace(augment, **off)


def change_pixels(image: np.ndarray, rng: np.random.Generator, augment: Augment) -> np.ndarray:
    """Applies colour jitter, RandAugment, cutout, random erasing and augment.custom, in this order.

    A step that is off draws no random numbers.

    Args:
      image: uint8 [size, size, channel]; it is not modified.
      rng: the random numbers; the same state gives the same image.
      augment: the fields from brightness to erase, and custom, are used.

    Returns:
      uint8 [size, size, channel]; the image itself if everything is off.
    """
    image = color_jitter(image, rng, augment)
    for _ in range(augment.rand_augment or 0):
        image = random_operation(image, rng, augment.magnitude)
    if augment.cutout:
        image = cutout(image, rng, augment.cutout)
    if augment.erase and rng.random() < augment.erase:
        image = erase(image, rng)
    return custom(image, rng, augment.custom) if augment.custom else image


def custom(image: np.ndarray, rng: np.random.Generator, name: str) -> np.ndarray:
    """Applies a function of the user.

    Args:
      image: uint8 [size, size, channel]; the function may change it.
      rng: the random numbers.
      name: the field augment.custom.

    Raises:
      ValueError: the function does not return an image of the same shape and type.
    """
    changed = resolve(name, "augment.custom")(image.copy(), rng)
    if getattr(changed, "dtype", None) != np.uint8 or changed.shape != image.shape:
        kind = f"{changed.dtype} {list(changed.shape)}" if hasattr(changed, "dtype") else changed
        raise ValueError(
            f"config: augment.custom={name} returns {kind}; it must return uint8 "
            f"{list(image.shape)}"
        )
    return changed


def color_jitter(image: np.ndarray, rng: np.random.Generator, augment: Augment) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue in a random order.

    As in torchvision's ColorJitter, the first three are factors uniform in [1 - x, 1 + x], and the
    hue is a shift uniform in [-x, x].

    Args:
      image: uint8 [height, width, channel].
      rng: the random numbers.
      augment: its fields brightness, contrast, saturation and hue are the limits x.
    """
    changes = (
        (augment.brightness, lambda x, by: brightness(x, 1 + by)),
        (augment.contrast, lambda x, by: contrast(x, 1 + by)),
        (augment.saturation, lambda x, by: saturation(x, 1 + by)),
        (augment.hue, hue),
    )
    used = [change for change in changes if change[0]]
    for i in rng.permutation(len(used)) if used else ():
        limit, change = used[i]
        image = change(image, rng.uniform(-limit, limit))
    return image


def random_operation(
    image: np.ndarray, rng: np.random.Generator, magnitude: float, maximum: float = 10.0
) -> np.ndarray:
    """Applies one random operation of RandAugment (Cubuk et al. 2019, arXiv:1909.13719).

    The fourteen operations of the paper's section 3 are equally probable. Their strength is
    magnitude / maximum of the ranges of AutoAugment (arXiv:1805.09501, table 6), in a random
    direction. Magnitude 0 changes nothing, except for AutoContrast and Equalize. This equals
    torchvision's RandAugment, and timm's `rand-...-inc1` without Invert and SolarizeAdd and with 8
    to 4 bits instead of 4 to 0.

    Args:
      image: uint8 [size, size, channel].
      rng: the random numbers.
      magnitude: the strength, from 0 to `maximum`.
      maximum: the magnitude of the full ranges.
    """
    operation = OPERATIONS[rng.integers(len(OPERATIONS))]
    level = magnitude / maximum
    return operation(image, level if rng.random() < 0.5 else -level)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies every value by the factor."""
    return _looked_up(image, _table(factor * _LEVELS))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the distance of every value from the mean luminance by the factor.

    Without RGB, that is the mean of all channels.
    """
    is_rgb = image.shape[2] == 3
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] if is_rgb else image.mean()
    mean = math.floor(mean + 0.5)
    return _looked_up(image, _table(mean + factor * (_LEVELS - mean)))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the distance of every pixel from its luminance by the factor.

    Images without colours, which is any number of channels but three, stay as they are.
    """
    if image.shape[2] != 3:
        return image
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Rotates every hue by a share of the circle, in 8-bit HSV as in Pillow and torchvision.

    Args:
      image: uint8 [height, width, 3].
      shift: the share, of either sign.
    """
    table = np.repeat(_LEVELS[:, None], 3, axis=1)
    table[:, 0] += round(256 * shift)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), (table % 256).astype(np.uint8)[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the distance from the smoothed image by the factor; keeps the border."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    inside = np.s_[1:-1, 1:-1]

    def sharpened(image: np.ndarray, dst: None = None) -> np.ndarray:
        smooth = cv2.filter2D(image, -1, kernel)
        return cv2.addWeighted(image, factor, smooth, 1 - factor, 0)

    result = image.copy()
    result[inside] = per_group(image, sharpened)[inside]
    return result


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel so that its smallest value is 0 and its largest 255."""
    found = _histogram(image) > 0
    low, high = found.argmax(axis=1), 255 - found[:, ::-1].argmax(axis=1)
    flat = low == high
    low, high = np.where(flat, 0, low), np.where(flat, 255, high)
    return _per_channel(image, _table((_LEVELS[:, None] - low) * (255 / (high - low))))


def equalize(image: np.ndarray) -> np.ndarray:
    """Flattens the histogram of each channel, with the rounding of Pillow's ImageOps.equalize."""
    histogram = _histogram(image)
    last = histogram[np.arange(len(histogram)), 255 - (histogram > 0)[:, ::-1].argmax(axis=1)]
    step = (histogram.sum(axis=1) - last)[:, None] // 255
    below = np.cumsum(histogram, axis=1) - histogram
    levels = np.where(step > 0, (step // 2 + below) // np.maximum(step, 1), _LEVELS)
    return _per_channel(image, _table(levels.T))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the given number of highest bits of every value."""
    return _looked_up(image, _table(_LEVELS & (256 - (1 << (8 - bits)))))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts values at or above the threshold; 256 changes nothing."""
    return _looked_up(image, _table(np.append(_LEVELS[:threshold], 255 - _LEVELS[threshold:])))


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates the image counter-clockwise about its centre."""
    height, width = image.shape[:2]
    inverse = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0)
    return _moved(image, inverse)


def shear(image: np.ndarray, across: float = 0.0, down: float = 0.0) -> np.ndarray:
    """Shears the image.

    Args:
      image: uint8 [height, width, channel].
      across: moves rows by this factor times their distance from the top edge.
      down: moves columns by this factor times their distance from the left edge.
    """
    return _moved(image, np.array([[1, across, across / 2], [down, 1, down / 2]]))


def translate(image: np.ndarray, across: float = 0.0, down: float = 0.0) -> np.ndarray:
    """Moves the image to the left and upwards, by shares of its width and height."""
    height, width = image.shape[:2]
    return _moved(image, np.array([[1, 0, across * width], [0, 1, down * height]]))


OPERATIONS: tuple[Callable[[np.ndarray, float], np.ndarray], ...] = (
    lambda image, level: image,
    lambda image, level: auto_contrast(image),
    lambda image, level: equalize(image),
    lambda image, level: rotate(image, 30 * level),
    lambda image, level: solarize(image, 256 - round(256 * abs(level))),
    lambda image, level: posterize(image, 8 - round(4 * abs(level))),
    lambda image, level: saturation(image, 1 + 0.9 * level),
    lambda image, level: contrast(image, 1 + 0.9 * level),
    lambda image, level: brightness(image, 1 + 0.9 * level),
    lambda image, level: sharpness(image, 1 + 0.9 * level),
    lambda image, level: shear(image, across=0.3 * level),
    lambda image, level: shear(image, down=0.3 * level),
    lambda image, level: translate(image, across=0.45 * level),
    lambda image, level: translate(image, down=0.45 * level),
)


def cutout(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Covers a random square with one random colour (DeVries and Taylor 2017, arXiv:1708.04552).

    The centre of the square is uniform in the image, so part of the square may lie outside. The
    colour is random as in the code of the asymmetric loss (arXiv:2009.14119).

    Args:
      image: uint8 [size, size, channel].
      rng: the random numbers.
      share: the side of the square divided by that of the image.
    """
    size = image.shape[0]
    side = round(share * size)
    top, left = rng.integers(size, size=2) - side // 2
    result = image.copy()
    square = np.s_[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    result[square] = rng.integers(256, size=image.shape[2], dtype=np.uint8)
    return result


def erase(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fills a random rectangle with noise (Zhong et al. 2017, arXiv:1708.04896, RE-R).

    The share of the area is uniform in [0.02, 0.4], and height / width is uniform in
    [0.3, 1 / 0.3]. A rectangle that does not fit is drawn again. After ten attempts, the image
    stays unchanged.
    """
    height, width, channels = image.shape
    for _ in range(_ERASE_ATTEMPTS):
        area, ratio = height * width * rng.uniform(*_ERASED), rng.uniform(*_ERASED_RATIO)
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows <= height and columns <= width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            result = image.copy()
            noise = rng.integers(256, size=(rows, columns, channels), dtype=np.uint8)
            result[top : top + rows, left : left + columns] = noise
            return result
    return image


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _per_channel(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Applies a table uint8 [256, channel], with one column per channel."""
    return cv2.LUT(image, np.ascontiguousarray(table)[None]).reshape(image.shape)


def _looked_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Applies a table uint8 [256] to all channels."""
    return cv2.LUT(image, table).reshape(image.shape)


def _histogram(image: np.ndarray) -> np.ndarray:
    """The histogram of each channel: int64 [channel, 256]."""
    # OpenCV counts in float32, which is exact up to 4096 x 4096 pixels.
    counts = [
        cv2.calcHist([image], [channel], None, [256], [0, 256]) for channel in range(image.shape[2])
    ]
    # The shape is [256, 1] in OpenCV 4 and [256] in OpenCV 5.
    return np.stack([count.ravel() for count in counts]).astype(np.int64)


def _moved(image: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Warps an image; inverse: [2, 3], maps a pixel centre of the result to one of the image."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = image.shape[1::-1]
    warp = partial(cv2.warpAffine, M=inverse, dsize=size, flags=flags, borderValue=_GREY)
    return per_group(image, warp)
