"""Channels of images: converts between grey and RGB, and applies OpenCV to any number of them."""

from collections.abc import Callable

import cv2
import numpy as np

from mlcls_jax.data.images.image_error import ImageError

# What the channels of an image mean.  Grey and RGB may be followed by alpha or other channels.
GREY, RGB, BANDS = "grey", "RGB", "bands"
# OpenCV's limit, for example in warpAffine and in resizing by areas.
_AT_ONCE = 4


def check_channels(stored: int, meaning: str, wanted: int) -> None:
    """Checks that an image can have the channels that the network takes.

    Grey becomes RGB and RGB becomes grey; further channels, such as alpha, are then dropped.  Any
    other number must be that of the image.

    Args:
        stored: number of channels of the image.
        meaning: GREY, RGB or BANDS.
        wanted: model.in_channels.

    Raises:
        ImageError: it cannot.
    """
    if stored == wanted or (wanted in (1, 3) and meaning != BANDS):
        return
    count = "1 channel" if stored == 1 else f"{stored} channels"
    raise ImageError(
        f"it has {count}, but model.in_channels is {wanted}; set model.in_channels={stored} if all "
        "images have as many, or convert it"
    )


def with_channels(pixels: np.ndarray, meaning: str, wanted: int) -> np.ndarray:
    """Returns an image with the channels that the network takes.

    Args:
        pixels: uint8 [height, width, channel], after `check_channels`.
        meaning: GREY, RGB or BANDS.
        wanted: model.in_channels.

    Returns:
        uint8 [height, width, wanted]; RGB becomes grey by its luma (ITU-R BT.601).
    """
    if pixels.shape[2] == wanted:
        return pixels
    if meaning == GREY:
        return np.repeat(pixels[..., :1], wanted, axis=2)
    colours = np.ascontiguousarray(pixels[..., :3])
    return colours if wanted == 3 else cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[..., None]


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Returns an image that a person can look at: the first three channels, or the first as grey.

    Args:
        pixels: uint8 [..., channel].

    Returns:
        uint8 [..., 3].
    """
    shown = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    return np.ascontiguousarray(shown)


def per_group(
    image: np.ndarray,
    change: Callable[..., np.ndarray],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Applies a function of OpenCV that treats all channels alike, to any number of channels.

    OpenCV drops the axis of a single channel, and some of its functions take four at most.

    Args:
        image: uint8 [height, width, channel].
        change: called with an image of one to four channels and the keyword `dst`.
        out: optional contiguous array to write to.

    Returns:
        uint8 [height', width', channel].
    """
    channels = image.shape[2]
    if 1 < channels <= _AT_ONCE:
        return change(image, dst=out)
    if channels == 1:
        changed = change(image, dst=out)
        return changed.reshape(*changed.shape[:2], 1) if out is None else out
    parts = [
        per_group(np.ascontiguousarray(image[..., start : start + _AT_ONCE]), change)
        for start in range(0, channels, _AT_ONCE)
    ]
    return np.concatenate(parts, axis=2, out=out)
