"""The symmetries of the square: mirrored, transposed and rotated images (augment.symmetry).

A symmetry is a number from 0 to 7. Its bits are applied in this order: 4 transposes the image, 2
mirrors it top to bottom, 1 mirrors it left to right. So 0 leaves an image as it is; 0 and 1 are the
values of "h", 0 to 3 those of "hv", and 0 to 7 those of "d4", which has all rotations by 90 degrees
and their mirror images: the dihedral group of the square.
"""

from typing import Any

import cv2
import numpy as np

from mlcls_jax.config.schema import SYMMETRIES

ACROSS, DOWN, TRANSPOSED = 1, 2, 4
_OPENCV_CHANNELS = 4  # OpenCV transposes images with more channels in some cases only


def uniforms_for(symmetry: str) -> int:
    """Returns how many random numbers `random_turn` takes: 0 or 1."""
    return int(SYMMETRIES[symmetry] > 1)


def random_turn(uniform: float, symmetry: str) -> int:
    """Returns a random symmetry; each one of the group is equally probable.

    Args:
      uniform: a random number in [0, 1).
      symmetry: a value of augment.symmetry.

    >>> [random_turn(uniform, "h") for uniform in (0.0, 0.49, 0.5)]
    [1, 1, 0]
    """
    count = SYMMETRIES[symmetry]
    return count - 1 - int(count * uniform)


def turned(images: Any, turn: int) -> Any:
    """Returns square images after a symmetry.

    Args:
      images: [..., size, size, channel], of NumPy or JAX.
      turn: the symmetry, from 0 to 7.

    >>> turned(np.array([[[1], [2]], [[3], [4]]]), TRANSPOSED + ACROSS)[..., 0].tolist()
    [[3, 1], [4, 2]]
    """
    if turn & TRANSPOSED:
        images = images.swapaxes(-3, -2)
    if turn & DOWN:
        images = images[..., ::-1, :, :]
    if turn & ACROSS:
        images = images[..., ::-1, :]
    return images


def turn_image(image: np.ndarray, turn: int, out: np.ndarray | None = None) -> np.ndarray:
    """Does the same as `turned` for one image, faster.

    Args:
      image: uint8 [height, width, channel]; it is not modified.
      turn: the symmetry, from 0 to 7.
      out: optional contiguous array for the result, which must not overlap the image.

    Returns:
      The result, contiguous; without `out`, the image itself if the symmetry is 0.
    """
    shape = image.shape
    if turn & TRANSPOSED:
        shape = (shape[1], shape[0], *shape[2:])
        if image.shape[-1] <= _OPENCV_CHANNELS:
            image = cv2.transpose(image)
        else:
            image = np.ascontiguousarray(image.swapaxes(0, 1))
    if turn & (DOWN | ACROSS):
        axis = {ACROSS: 1, DOWN: 0, DOWN | ACROSS: -1}[turn & (DOWN | ACROSS)]
        image = cv2.flip(image, axis, dst=out)
    elif out is not None:
        np.copyto(out, image.reshape(shape))
    return image.reshape(shape) if out is None else out
