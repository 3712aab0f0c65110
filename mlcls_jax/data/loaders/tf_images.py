"""TensorFlow operations from the bytes of JPEGs to squares, by the plans of tf_plans.py.

They compute what `transforms.train_image` and `eval_image` do: the same fraction of the size, and
the same resizing up to rounding.
"""

# TensorFlow's annotations lack some operators of tensors.
# pyright: reportOperatorIssue=false, reportArgumentType=false

import functools

import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.data.images.decoding import EIGHTHS
from mlcls_jax.data.images.transforms import AVERAGED_FROM, PADDING
from mlcls_jax.data.loaders.tf_plans import (
    ACROSS,
    BRANCH,
    DOWN,
    HEIGHT,
    JPEG_CHANNELS,
    SQUARE_HEIGHT,
    SQUARE_LEFT,
    SQUARE_TOP,
    SQUARE_WIDTH,
    TOP,
    TRANSPOSED,
    WIDTH,
    Geometry,
)

# How libjpeg-turbo decodes: the divisor of the size, and whether colours are upsampled smoothly.
BRANCHES = (*((8 // eighths, True) for eighths in (*EIGHTHS, 8)), (1, False))


def jpeg_shape(contents: tf.Tensor) -> tf.Tensor:
    """Returns height, width and channels of a JPEG: int32 [3]; zeros for other contents.

    Args:
      contents: string [].

    Raises:
      tf.errors.InvalidArgumentError: the header of a JPEG is damaged.
    """
    return tf.cond(
        tf.strings.substr(contents, 0, 3) == b"\xff\xd8\xff",
        lambda: tf.image.extract_jpeg_shape(contents),
        lambda: tf.zeros([3], tf.int32),
    )


def decode_plain(
    contents: tf.Tensor, plan: tf.Tensor, geometry: Geometry, branch: int
) -> tf.Tensor:
    """Returns the square of a JPEG of kind PLAIN + branch: uint8 [size, size, channel].

    Args:
      contents: string [].
      plan: int32 [13], a row of `make_plans`.
      geometry: how images become squares.
      branch: an index of BRANCHES.

    Raises:
      tf.errors.InvalidArgumentError: the image is damaged.
    """
    pixels = _decoded(contents, plan, branch, geometry)
    return _turned(_bilinear(pixels[None], plan, geometry), plan, geometry.transposes)


def decode_jpeg(contents: tf.Tensor, plan: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Returns the square of a JPEG of kind JPEG; its arguments are those of `decode_plain`."""
    branches = range(len(BRANCHES))
    branches = [functools.partial(_decoded, contents, plan, at, geometry) for at in branches]
    pixels = tf.switch_case(plan[BRANCH], branches)
    shape, smaller = plan[HEIGHT : WIDTH + 1], plan[SQUARE_HEIGHT : SQUARE_WIDTH + 1]
    shape = tf.where(shape >= AVERAGED_FROM * smaller, smaller, shape)
    averaged = tf.round(tf.raw_ops.ResizeArea(images=pixels[None], size=shape))
    return _turned(_bilinear(averaged, plan, geometry), plan, transposes=True)


def _decoded(contents: tf.Tensor, plan: tf.Tensor, branch: int, geometry: Geometry) -> tf.Tensor:
    ratio, fancy = BRANCHES[branch]
    channels = geometry.pixels.channels
    return tf.raw_ops.DecodeAndCropJpeg(
        contents=contents,
        crop_window=plan[TOP : WIDTH + 1],
        channels=channels if channels in JPEG_CHANNELS else 3,  # 3: never called
        ratio=ratio,
        fancy_upscaling=fancy,
        dct_method="INTEGER_ACCURATE",
    )


def _bilinear(images: tf.Tensor, plan: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Resizes numbers [1, height, width, channel] to their part of a square.

    Returns:
      uint8 [size, size, channel].
    """
    size, padded = geometry.size, geometry.resize == "letterbox"
    sides = plan[SQUARE_HEIGHT : SQUARE_WIDTH + 1] if padded else [size, size]
    resized = tf.raw_ops.ResizeBilinear(images=images, size=sides, half_pixel_centers=True)
    pixels = tf.cast(tf.round(resized[0]), tf.uint8)
    if not padded:
        return pixels
    before = plan[SQUARE_TOP : SQUARE_LEFT + 1]
    borders = tf.stack([before, size - before - sides], axis=1)
    borders = tf.concat([borders, tf.zeros([1, 2], tf.int32)], axis=0)
    square = tf.pad(pixels, borders, constant_values=tf.constant(PADDING, tf.uint8))
    return tf.ensure_shape(square, geometry.shape)


def _turned(square: tf.Tensor, plan: tf.Tensor, transposes: bool) -> tf.Tensor:
    """Transposes a square, if its plan may say so, and mirrors it."""
    if transposes:
        square = tf.cond(
            plan[TRANSPOSED] > 0, lambda: tf.transpose(square, (1, 0, 2)), lambda: square
        )
    dims = tf.concat([plan[DOWN : ACROSS + 1] > 0, [False]], axis=0)
    return tf.raw_ops.Reverse(tensor=square, dims=dims)
