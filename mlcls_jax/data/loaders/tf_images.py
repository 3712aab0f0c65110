"""TensorFlow operations from the bytes of JPEGs to squares, for whole batches where possible.

They compute what `transforms.train_image` and `eval_image` do: the same crops and mirroring from
the same random numbers, the same fraction of the size, and the same resizing up to rounding.

An operation costs a microsecond or more, whatever its size.  So everything but decoding and
resizing is computed for a whole batch at once.
"""

# TensorFlow's annotations lack some operators of tensors.
# pyright: reportOperatorIssue=false, reportArgumentType=false

import functools
import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import EIGHTHS, ENOUGH
from mlcls_jax.data.images.transforms import (
    AVERAGED_FROM,
    CROP_ATTEMPTS,
    CROP_UNIFORMS,
    RATIO,
    center_crop_share,
    uniforms_needed,
)
from mlcls_jax.data.loaders.tf_orientation import is_in, orientations
from mlcls_jax.data.loaders.tf_scans import has_few_scans

# How an image is decoded: not at all (it is black), by Python, or as a JPEG.  PLAIN is the first of
# the kinds of JPEGs that are only decoded, resized and mirrored, one kind for each branch.
BLACK, PYTHON, JPEG, PLAIN = 0, 1, 2, 3
# Columns of a plan.
KIND, BRANCH, TOP, LEFT, HEIGHT, WIDTH, TRANSPOSED, DOWN, ACROSS = range(9)
# How libjpeg-turbo decodes: the divisor of the size, and whether colours are upsampled smoothly.
BRANCHES = (*((8 // eighths, True) for eighths in (*EIGHTHS, 8)), (1, False))


@dataclass(frozen=True)
class Geometry:
    """How an image becomes a square.

    size: side of the square in pixels.
    flip: whether half of the images are mirrored.
    min_scale: smallest share of the area of a random crop; None: no random crop.
    center_crop: whether the central square is taken.
    max_pixels: larger images are left to Python, which refuses them.
    drawn: number of random numbers per image.
    """

    size: int
    flip: bool
    min_scale: float | None
    center_crop: bool
    max_pixels: int
    drawn: int


def train_geometry(augment: Augment, size: int, max_pixels: int) -> Geometry:
    """Returns how training images become squares."""
    min_scale = augment.min_scale if augment.train_resize == "random_crop" else None
    drawn = uniforms_needed(augment)
    return Geometry(size, augment.flip, min_scale, False, max_pixels, drawn)


def eval_geometry(augment: Augment, size: int, max_pixels: int) -> Geometry:
    """Returns how images for evaluation become squares."""
    return Geometry(size, False, None, augment.eval_resize == "center_crop", max_pixels, drawn=0)


@functools.lru_cache(maxsize=8)  # of the training images and of each evaluated split
def plan_function(geometry: Geometry) -> Any:
    """Returns `make_plans` for a geometry as a function of TensorFlow, which is traced once."""
    signature = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 3], tf.int32)]
    if geometry.drawn:
        signature.append(tf.TensorSpec([None, geometry.drawn], tf.float64))

    def plan(contents: tf.Tensor, shapes: tf.Tensor, uniforms: Any = None) -> tf.Tensor:
        return make_plans(contents, shapes, uniforms, geometry)

    return tf.function(plan, input_signature=signature, autograph=False)


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


def make_plans(
    contents: tf.Tensor, shapes: tf.Tensor, uniforms: tf.Tensor | None, geometry: Geometry
) -> tf.Tensor:
    """Returns how each image of a batch is decoded: int32 [n, 9], see the columns above.

    TOP, LEFT, HEIGHT and WIDTH are in pixels of the decoded image as stored.  The square is then
    transposed and mirrored.

    Args:
      contents: string [n]; "" for a black image.
      shapes: int32 [n, 3], see `jpeg_shape`.
      uniforms: float64 [n, geometry.drawn]; None if none are needed.
      geometry: how images become squares.
    """
    stored = tf.cast(shapes[:, :2], tf.float64)
    orientation, known = orientations(contents)
    transposed = orientation >= 5
    height = tf.where(transposed, stored[:, 1], stored[:, 0])
    width = tf.where(transposed, stored[:, 0], stored[:, 1])
    box = _boxes(height, width, uniforms, geometry)
    eighths, fast = _fractions(height, width, box, geometry.size)
    decoded = tf.math.ceil(height * eighths / 8), tf.math.ceil(width * eighths / 8)
    window = _windows(box, (height, width), decoded)
    # The window of the image as stored, before it is transposed and mirrored.
    down, across = is_in(orientation, (3, 4, 7, 8)), is_in(orientation, (2, 3, 6, 7))
    top, left, rows, columns = window
    top = tf.where(down, decoded[0] - top - rows, top)
    left = tf.where(across, decoded[1] - left - columns, left)
    pairs = ((top, left), (left, top), (rows, columns), (columns, rows))
    stored_window = [tf.where(transposed, b, a) for a, b in pairs]
    if geometry.flip and uniforms is not None:
        across = across ^ (uniforms[:, 0] < 0.5)
    is_jpeg = is_in(shapes[:, 2], (1, 3)) & known
    branch = tf.cast(tf.math.log(eighths) / math.log(2) + 0.5, tf.int32)
    branch += tf.cast((eighths == 8) & fast, tf.int32)
    is_plain = ~transposed & (tf.maximum(rows, columns) < AVERAGED_FROM * geometry.size)
    kind = tf.where(is_plain, PLAIN + branch, JPEG)
    is_cheap = (height * width <= geometry.max_pixels) & has_few_scans(contents)
    kind = tf.where(is_jpeg & is_cheap, kind, PYTHON)
    kind = tf.where(tf.strings.length(contents) == 0, BLACK, kind)
    columns = [kind, branch, *stored_window, transposed, down, across]
    return tf.stack([tf.cast(column, tf.int32) for column in columns], axis=1)


def decode_plain(contents: tf.Tensor, plan: tf.Tensor, size: int, branch: int) -> tf.Tensor:
    """Returns the square of a JPEG of kind PLAIN + branch: uint8 [size, size, 3].

    Args:
      contents: string [].
      plan: int32 [9], a row of `make_plans`.
      size: side of the square in pixels.
      branch: an index of BRANCHES.

    Raises:
      tf.errors.InvalidArgumentError: the image is damaged.
    """
    return _mirrored(_bilinear(_decoded(contents, plan, branch)[None], size), plan)


def decode_jpeg(contents: tf.Tensor, plan: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the square of a JPEG of kind JPEG; its arguments are those of `decode_plain`."""
    branches = [functools.partial(_decoded, contents, plan, at) for at in range(len(BRANCHES))]
    pixels = tf.switch_case(plan[BRANCH], branches)
    shape = plan[HEIGHT : WIDTH + 1]
    shape = tf.where(shape >= AVERAGED_FROM * size, size, shape)
    averaged = tf.round(tf.raw_ops.ResizeArea(images=pixels[None], size=shape))
    square = _bilinear(averaged, size)
    square = tf.cond(plan[TRANSPOSED] > 0, lambda: tf.transpose(square, (1, 0, 2)), lambda: square)
    return _mirrored(square, plan)


def _decoded(contents: tf.Tensor, plan: tf.Tensor, branch: int) -> tf.Tensor:
    ratio, fancy = BRANCHES[branch]
    return tf.raw_ops.DecodeAndCropJpeg(
        contents=contents,
        crop_window=plan[TOP : WIDTH + 1],
        channels=3,
        ratio=ratio,
        fancy_upscaling=fancy,
        dct_method="INTEGER_ACCURATE",
    )


def _bilinear(images: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes numbers [1, height, width, 3] to uint8 [size, size, 3]."""
    resized = tf.raw_ops.ResizeBilinear(images=images, size=[size, size], half_pixel_centers=True)
    return tf.cast(tf.round(resized[0]), tf.uint8)


def _mirrored(square: tf.Tensor, plan: tf.Tensor) -> tf.Tensor:
    dims = tf.concat([plan[DOWN : ACROSS + 1] > 0, [False]], axis=0)
    return tf.raw_ops.Reverse(tensor=square, dims=dims)


def _boxes(
    height: tf.Tensor, width: tf.Tensor, uniforms: tf.Tensor | None, geometry: Geometry
) -> tuple[tf.Tensor, ...]:
    """Top, left, height and width of the part of each upright image: float64 [n]."""
    if geometry.min_scale is not None and uniforms is not None:
        crop = uniforms[:, int(geometry.flip) :]
        return _random_boxes(height, width, crop, geometry.min_scale)
    if geometry.center_crop:
        share = center_crop_share(geometry.size)
        side = tf.maximum(tf.floor(share * tf.minimum(height, width)), 1)
        top, left = ((length - side + 1) // 2 for length in (height, width))
        return top, left, side, side
    zero = tf.zeros_like(height)
    return zero, zero, height, width


def _random_boxes(
    height: tf.Tensor, width: tf.Tensor, uniforms: tf.Tensor, min_scale: float
) -> tuple[tf.Tensor, ...]:
    """Random parts of images, as `transforms.random_box` draws them."""
    drawn = tf.reshape(uniforms, [-1, CROP_ATTEMPTS, CROP_UNIFORMS])
    low, high = (math.log(side) for side in RATIO)
    tall, wide = height[:, None], width[:, None]
    area = tall * wide * (min_scale + (1 - min_scale) * drawn[..., 0])
    aspect = tf.exp(low + (high - low) * drawn[..., 1])
    rows, columns = tf.round(tf.sqrt(area / aspect)), tf.round(tf.sqrt(area * aspect))
    fits = (rows > 0) & (rows <= tall) & (columns > 0) & (columns <= wide)
    top = tf.floor((tall - rows + 1) * drawn[..., 2])
    left = tf.floor((wide - columns + 1) * drawn[..., 3])
    first = tf.argmax(fits, axis=1, output_type=tf.int32)
    chosen = [tf.gather(part, first, axis=1, batch_dims=1) for part in (top, left, rows, columns)]
    largest_rows = tf.maximum(tf.minimum(height, tf.round(width / RATIO[0])), 1)
    largest_columns = tf.maximum(tf.minimum(width, tf.round(height * RATIO[1])), 1)
    centre = (height - largest_rows) // 2, (width - largest_columns) // 2
    any_fits = tf.reduce_any(fits, axis=1)
    largest = (*centre, largest_rows, largest_columns)
    return tuple(tf.where(any_fits, a, b) for a, b in zip(chosen, largest, strict=True))


def _fractions(
    height: tf.Tensor, width: tf.Tensor, box: tuple[tf.Tensor, ...], size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The fraction in eighths, float64 [n], and whether colours may be upsampled fast, bool [n]."""
    _, _, rows, columns = box
    least = tf.math.ceil(size * height / rows), tf.math.ceil(size * width / columns)
    eighths = tf.fill(tf.shape(height), tf.constant(8, tf.float64))
    for fraction in reversed(EIGHTHS):
        enough = [
            tf.math.ceil(length * fraction / 8) >= ENOUGH * limit
            for length, limit in zip((height, width), least, strict=True)
        ]
        eighths = tf.where(enough[0] & enough[1], tf.constant(fraction, tf.float64), eighths)
    return eighths, (least[0] < height) & (least[1] < width)


def _windows(
    box: tuple[tf.Tensor, ...], whole: tuple[tf.Tensor, ...], decoded: tuple[tf.Tensor, ...]
) -> tuple[tf.Tensor, ...]:
    """The box in pixels of the decoded image: top, left, height and width, float64 [n]."""
    starts, lengths = [], []
    for start, length, before, after in zip(box[:2], box[2:], whole, decoded, strict=True):
        share = after / before
        first = tf.minimum(tf.round(start * share), after - 1)
        starts.append(first)
        lengths.append(tf.minimum(tf.maximum(tf.round(length * share), 1), after - first))
    return *starts, *lengths
