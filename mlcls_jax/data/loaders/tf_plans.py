"""How each JPEG of a batch is decoded by TensorFlow: its fraction, window and place in the square.

Crops and symmetries are those of `transforms.train_image`, from the same random numbers.  All is
computed for a whole batch at once, because an operation costs a microsecond or more, whatever its
size.
"""

# TensorFlow's annotations lack some operators of tensors.
# pyright: reportOperatorIssue=false, reportArgumentType=false

import functools
import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.config import Augment
from mlcls_jax.config.schema import SYMMETRIES
from mlcls_jax.data.images import symmetry
from mlcls_jax.data.images.decoding import EIGHTHS, ENOUGH
from mlcls_jax.data.images.pixel_format import PixelFormat
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
# the kinds of JPEGs that are only decoded, resized and turned, one kind for each branch.
BLACK, PYTHON, JPEG, PLAIN = 0, 1, 2, 3
JPEG_CHANNELS = (1, 3)  # that a JPEG can be decoded to; Python says what is wrong with others
# Columns of a plan: how the image is decoded, its window, the part of the square that the window
# fills, and what is done to the square.
KIND, BRANCH, TOP, LEFT, HEIGHT, WIDTH = range(6)
SQUARE_TOP, SQUARE_LEFT, SQUARE_HEIGHT, SQUARE_WIDTH, TRANSPOSED, DOWN, ACROSS = range(6, 13)


@dataclass(frozen=True)
class Geometry:
    """How an image becomes a square.

    size: side of the square in pixels.
    resize: a value of augment.train_resize.
    symmetry: a value of augment.symmetry.
    min_scale: smallest share of the area of a random crop.
    pixels: channels of the square; larger images are left to Python, which refuses them.
    drawn: number of random numbers per image.
    """

    size: int
    resize: str
    symmetry: str
    min_scale: float
    pixels: PixelFormat
    drawn: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the square."""
        return self.size, self.size, self.pixels.channels

    @property
    def transposes(self) -> bool:
        """Whether images are transposed at random."""
        return SYMMETRIES[self.symmetry] > symmetry.TRANSPOSED


def train_geometry(augment: Augment, size: int, pixels: PixelFormat) -> Geometry:
    """Returns how training images become squares."""
    resize, drawn = augment.train_resize, uniforms_needed(augment)
    return Geometry(size, resize, augment.symmetry, augment.min_scale, pixels, drawn)


def eval_geometry(augment: Augment, size: int, pixels: PixelFormat) -> Geometry:
    """Returns how images for evaluation become squares."""
    return Geometry(size, augment.eval_resize, "none", augment.min_scale, pixels, drawn=0)


@functools.lru_cache(maxsize=8)  # of the training images and of each evaluated split
def plan_function(geometry: Geometry) -> Any:
    """Returns `make_plans` for a geometry as a function of TensorFlow, which is traced once."""
    signature = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 3], tf.int32)]
    if geometry.drawn:
        signature.append(tf.TensorSpec([None, geometry.drawn], tf.float64))

    def plan(contents: tf.Tensor, shapes: tf.Tensor, uniforms: Any = None) -> tf.Tensor:
        return make_plans(contents, shapes, uniforms, geometry)

    return tf.function(plan, input_signature=signature, autograph=False)


def make_plans(
    contents: tf.Tensor, shapes: tf.Tensor, uniforms: tf.Tensor | None, geometry: Geometry
) -> tf.Tensor:
    """Returns how each image of a batch is decoded: int32 [n, 13], see the columns above.

    TOP, LEFT, HEIGHT and WIDTH are in pixels of the decoded image as stored.  The window is resized
    to its part of the square, which is then transposed and mirrored.

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
    box, part = _boxes(height, width, uniforms, geometry), _parts(height, width, geometry)
    eighths, fast = _fractions(height, width, box, part)
    decoded = tf.math.ceil(height * eighths / 8), tf.math.ceil(width * eighths / 8)
    window = _windows(box, (height, width), decoded)
    # Both as stored, before the square is transposed and mirrored.
    turns = transposed, is_in(orientation, (3, 4, 7, 8)), is_in(orientation, (2, 3, 6, 7))
    square = tf.fill(tf.shape(height), tf.constant(geometry.size, tf.float64))
    places = [*_stored(window, decoded, turns), *_stored(part, (square, square), turns)]
    turns = _combined(turns, uniforms, geometry)
    is_jpeg = is_in(shapes[:, 2], (1, 3)) & known & (geometry.pixels.channels in JPEG_CHANNELS)
    branch = tf.cast(tf.math.log(eighths) / math.log(2) + 0.5, tf.int32)
    branch += tf.cast((eighths == 8) & fast, tf.int32)
    is_plain = (window[2] < AVERAGED_FROM * part[2]) & (window[3] < AVERAGED_FROM * part[3])
    if not geometry.transposes:
        is_plain &= ~transposed
    kind = tf.where(is_plain, PLAIN + branch, JPEG)
    is_cheap = (height * width <= geometry.pixels.max_pixels) & has_few_scans(contents)
    kind = tf.where(is_jpeg & is_cheap, kind, PYTHON)
    kind = tf.where(tf.strings.length(contents) == 0, BLACK, kind)
    columns = [kind, branch, *places, *turns]
    return tf.stack([tf.cast(column, tf.int32) for column in columns], axis=1)


def _boxes(
    height: tf.Tensor, width: tf.Tensor, uniforms: tf.Tensor | None, geometry: Geometry
) -> tuple[tf.Tensor, ...]:
    """Top, left, height and width of the part of each upright image: float64 [n]."""
    if geometry.resize == "random_crop" and uniforms is not None:
        crop = uniforms[:, symmetry.uniforms_for(geometry.symmetry) :]
        return _random_boxes(height, width, crop, geometry.min_scale)
    if geometry.resize == "center_crop":
        share = center_crop_share(geometry.size)
        side = tf.maximum(tf.floor(share * tf.minimum(height, width)), 1)
        top, left = ((length - side + 1) // 2 for length in (height, width))
        return top, left, side, side
    zero = tf.zeros_like(height)
    return zero, zero, height, width


def _parts(height: tf.Tensor, width: tf.Tensor, geometry: Geometry) -> tuple[tf.Tensor, ...]:
    """Top, left, height and width of the part of the square that each upright image fills."""
    size = tf.fill(tf.shape(height), tf.constant(geometry.size, tf.float64))
    if geometry.resize != "letterbox":
        return tf.zeros_like(size), tf.zeros_like(size), size, size
    longest = tf.maximum(height, width)
    rows, columns = (tf.maximum(tf.round(side * size / longest), 1) for side in (height, width))
    return (size - rows) // 2, (size - columns) // 2, rows, columns


def _stored(
    box: tuple[tf.Tensor, ...], sides: tuple[tf.Tensor, ...], turns: tuple[tf.Tensor, ...]
) -> list[tf.Tensor]:
    """A box of upright images in their pixels as stored.

    Args:
      box: top, left, height and width.
      sides: height and width of the upright images.
      turns: whether each image must be transposed, then mirrored top to bottom and left to right,
        to be upright.
    """
    (top, left, rows, columns), (transposed, down, across) = box, turns
    top = tf.where(down, sides[0] - top - rows, top)
    left = tf.where(across, sides[1] - left - columns, left)
    pairs = ((top, left), (left, top), (rows, columns), (columns, rows))
    return [tf.where(transposed, b, a) for a, b in pairs]


def _combined(
    turns: tuple[tf.Tensor, ...], uniforms: tf.Tensor | None, geometry: Geometry
) -> tuple[tf.Tensor, ...]:
    """The turns of `_stored`, followed by random ones as `symmetry.random_turn` draws them."""
    if geometry.symmetry == "none" or uniforms is None:
        return turns
    transposed, down, across = turns
    count = SYMMETRIES[geometry.symmetry]
    turn = count - 1 - tf.cast(count * uniforms[:, 0], tf.int32)
    bits = symmetry.TRANSPOSED, symmetry.DOWN, symmetry.ACROSS
    by_diagonal, to_bottom, to_right = (tf.bitwise.bitwise_and(turn, bit) > 0 for bit in bits)
    # To mirror and then transpose is to transpose and then mirror the other way.
    down, across = tf.where(by_diagonal, across, down), tf.where(by_diagonal, down, across)
    return transposed ^ by_diagonal, down ^ to_bottom, across ^ to_right


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
    height: tf.Tensor, width: tf.Tensor, box: tuple[tf.Tensor, ...], part: tuple[tf.Tensor, ...]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The fraction in eighths, float64 [n], and whether colours may be upsampled fast, bool [n]."""
    least = tf.math.ceil(part[2] * height / box[2]), tf.math.ceil(part[3] * width / box[3])
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
