"""One picture, from the bytes of its file to uint8 [size, size, 3], in TensorFlow ops.

Everything works on tensors, eagerly and inside `tf.data.Dataset.map` alike, and everything random
is a function of the seed that is passed in.
"""

import math

from mlcls_jax.config import center_crop_share
from mlcls_jax.data.decoding import decode
from mlcls_jax.data.tensorflow_cpu import tf

INTERPOLATIONS = ("bicubic", "bilinear")

_CROP_ATTEMPTS = 10


def resize(image, size: int, *, interpolation: str = "bicubic", antialias: bool = True):
    """Resizes to a square; what isn't square is squashed.

    Args:
      image: [height, width, 3], uint8 or float32.
      size: side of the result in pixels.
      interpolation: "bicubic" (Keys, a = -0.5, as in Pillow) or "bilinear".
      antialias: widen the kernel with the factor where the picture shrinks.

    Returns:
      float32 [size, size, 3] on the scale of the input; bicubic may overshoot it.

    Raises:
      ValueError: an unknown interpolation.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation {interpolation!r} is unknown; use one of {INTERPOLATIONS}")
    resized = tf.image.resize(image, [size, size], method=interpolation, antialias=antialias)
    return tf.ensure_shape(resized, [size, size, 3])


def center_crop_resize(image, size: int, *, interpolation: str = "bicubic", antialias: bool = True):
    """Resizes the central square whose side is size / (size + 32) of the picture's short side.

    This is the evaluation of the reference implementation (`preprocessing.py` of
    tensorflow/tpu/models/official/efficientnet), which resizes without antialiasing.

    Args and returns: as `resize`.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    short = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.maximum(tf.cast(center_crop_share(size) * short, tf.int32), 1)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    crop = image[top : top + side, left : left + side]
    return resize(crop, size, interpolation=interpolation, antialias=antialias)


def random_resized_crop(
    image,
    size: int,
    seed,
    *,
    min_scale: float,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
    antialias: bool = True,
):
    """Resizes a random part of the picture to a square (Szegedy et al. 2015, arXiv:1409.4842).

    The part's share of the area is uniform in [min_scale, 1] and the logarithm of its aspect
    uniform in `ratio`. A part that doesn't fit is drawn again, ten times at most; then it is the
    largest central one whose aspect lies in `ratio`.

    Args:
      image: [height, width, 3], uint8 or float32.
      size: side of the result in pixels.
      seed: int32 or int64 [2]; the result is a function of it.
      min_scale: smallest share of the picture's area, in (0, 1].
      ratio: smallest and largest width / height.
      interpolation: as in `resize`.
      antialias: as in `resize`.

    Returns:
      float32 [size, size, 3].
    """
    top, left, height, width = _random_box(tf.shape(image), seed, min_scale, ratio)
    crop = image[top : top + height, left : left + width]
    return resize(crop, size, interpolation=interpolation, antialias=antialias)


def random_flip(image, seed):
    """Mirrors [height, width, 3] left to right in half of all seeds (int32 or int64 [2])."""
    mirrored = tf.random.stateless_uniform([], seed, alg="philox") < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def train_picture(
    contents,
    seed,
    *,
    size: int,
    train_resize: str,
    min_scale: float,
    flip: bool,
    interpolation: str,
    antialias: bool = True,
):
    """Decodes and augments one training picture.

    Args:
      contents: scalar string tensor, the bytes of the file.
      seed: int32 or int64 [2]; the same seed gives the same picture.
      size: side of the result in pixels.
      train_resize: "squash" (the whole picture) or "random_crop".
      min_scale: as in `random_resized_crop`; unused by "squash".
      flip: mirror half of the pictures.
      interpolation: as in `resize`.
      antialias: as in `resize`.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: an unknown train_resize or interpolation.
      tf.errors.InvalidArgumentError: as `decode`.
    """
    crop_seed, flip_seed = (tf.random.fold_in(seed, stream, alg="philox") for stream in (0, 1))
    how = {"interpolation": interpolation, "antialias": antialias}
    image = decode(contents)
    if train_resize == "squash":
        image = resize(image, size, **how)
    elif train_resize == "random_crop":
        image = random_resized_crop(image, size, crop_seed, min_scale=min_scale, **how)
    else:
        raise ValueError(f'train_resize {train_resize!r} is unknown; use "squash" or "random_crop"')
    return _to_uint8(random_flip(image, flip_seed) if flip else image)


def eval_picture(
    contents, *, size: int, eval_resize: str, interpolation: str, antialias: bool = True
):
    """Decodes one picture for evaluation: "squash" to a square, or "center_crop".

    Args, returns and errors: as `train_picture`; `eval_resize` takes the place of `train_resize`.
    """
    how = {"interpolation": interpolation, "antialias": antialias}
    image = decode(contents)
    if eval_resize == "squash":
        return _to_uint8(resize(image, size, **how))
    if eval_resize == "center_crop":
        return _to_uint8(center_crop_resize(image, size, **how))
    raise ValueError(f'eval_resize {eval_resize!r} is unknown; use "squash" or "center_crop"')


def _to_uint8(image):
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)


def _random_box(shape, seed, min_scale: float, ratio: tuple[float, float]):
    """Top, left, height and width of a random part of a picture, each int32."""
    limits = tf.cast(shape[:2], tf.float32)
    height, width = tf.unstack(limits)
    draws = tf.random.stateless_uniform([2 * _CROP_ATTEMPTS + 2], seed, alg="philox")
    share = min_scale + (1 - min_scale) * draws[:_CROP_ATTEMPTS]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(low + (high - low) * draws[_CROP_ATTEMPTS:-2])
    area = share * height * width
    boxes = tf.round(tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)], axis=1))
    boxes = tf.boolean_mask(boxes, tf.reduce_all(boxes <= limits, axis=1))
    largest = tf.stack([tf.minimum(height, width / ratio[0]), tf.minimum(width, height * ratio[1])])
    box = tf.maximum(tf.concat([boxes, tf.round(largest)[None]], axis=0)[0], 1.0)
    free = limits - box
    # A part that didn't fit ten times is taken from the middle, like the reference's.
    corner = tf.cond(
        tf.shape(boxes)[0] > 0, lambda: tf.floor(draws[-2:] * (free + 1)), lambda: free // 2
    )
    top_left, height_width = tf.cast(tf.minimum(corner, free), tf.int32), tf.cast(box, tf.int32)
    return *tf.unstack(top_left), *tf.unstack(height_width)
