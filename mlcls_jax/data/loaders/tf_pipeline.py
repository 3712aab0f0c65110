"""The dataset of tf.data: in TensorFlow operations from the file name to the batch.

Nothing here runs Python for each image, so this scales with the cores.  The exceptions are images
other than JPEGs, each a call of Python for that image alone, and changes of pixels such as
RandAugment, if the caller wants them within the dataset.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.config import Augment
from mlcls_jax.data.images.augment import change_pixels, changes_pixels, without_pixel_changes
from mlcls_jax.data.images.image_source import ImageFiles
from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.data.loaders.order import NO_IMAGE
from mlcls_jax.data.loaders.tf_files import Files, files_of
from mlcls_jax.data.loaders.tf_images import BRANCHES, decode_jpeg, decode_plain, jpeg_shape
from mlcls_jax.data.loaders.tf_plans import (
    BLACK,
    JPEG,
    KIND,
    PLAIN,
    PYTHON,
    Geometry,
    eval_geometry,
    plan_function,
    train_geometry,
)
from mlcls_jax.data.loaders.tf_random import uniforms_of
from mlcls_jax.data.sampling import generator_after, image_random

AHEAD = 2  # batches that are ready in addition to the next one
# Images that are planned together.  Their files are in memory meanwhile, so these are few.
_PLANNED = 32


@dataclass(frozen=True)
class Images:
    """The images of a split, and how they become squares.

    files: the files of the images.
    geometry: how images become squares.
    augment: of the run.
    reader: how they are read.
    seed: of the random numbers.
    training: whether the images are augmented.
    by_python: indices of images that TensorFlow cannot decode, although Python can.
    """

    files: Files
    geometry: Geometry
    augment: Augment
    reader: Reader
    seed: int
    training: bool
    by_python: frozenset[int] = frozenset()

    def changed(self, square: np.ndarray, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Returns a square after the changes of pixels: uint8 [size, size, channel]."""
        rng = generator_after(self.seed, int(epoch), int(index), self.geometry.drawn)
        return change_pixels(square, rng, self.augment)


def train_images(
    paths: Sequence[str], size: int, augment: Augment, seed: int, reader: Reader
) -> Images:
    """Returns training images; the arguments are those of `train_batches`."""
    files, geometry = files_of(paths, reader.files), train_geometry(augment, size, reader.pixels)
    return Images(files, geometry, augment, reader, seed, training=True)


def eval_images(paths: Sequence[str], size: int, augment: Augment, reader: Reader) -> Images:
    """Returns images for evaluation; the arguments are those of `eval_batches`."""
    files, geometry = files_of(paths, reader.files), eval_geometry(augment, size, reader.pixels)
    return Images(files, geometry, augment, reader, seed=0, training=False)


def image_dataset(
    images: Images, epochs: np.ndarray, indices: np.ndarray, changes: bool = False
) -> tf.data.Dataset:
    """Returns a dataset of batches: uint8 [row, size, size, channel], in order.

    Args:
      images: the images.
      epochs, indices: int64 [step, row], see `train_order` and `eval_order`.
      changes: whether pixels are changed as well, image by image, by Python.
    """
    rows, count, workers = planned_rows(images, epochs, indices), indices.shape[1], _workers(images)
    squares = rows.map(_plain(_square_operation(images, changes)), num_parallel_calls=workers)
    batches = squares.batch(count, drop_remainder=True).prefetch(AHEAD)
    return batches.with_options(options_of(images))


def planned_rows(images: Images, epochs: np.ndarray, indices: np.ndarray) -> tf.data.Dataset:
    """Returns a dataset of single images that are read and planned, but not decoded.

    Args: see `image_dataset`.
    """
    steps = {"index": tf.constant(indices), "epoch": tf.constant(epochs)}
    # Images with the name of a JPEG that are none fail, and go to Python.
    are_jpegs = images.files.are_jpegs and not images.by_python and (indices != NO_IMAGE).all()
    shape = tf.image.extract_jpeg_shape if are_jpegs else jpeg_shape
    read = images.files.read_or_black(indices)
    by_python = tf.constant(sorted(images.by_python), tf.int64)

    def draw(step: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = {name: tf.gather(values, step) for name, values in steps.items()}
        rows["step"] = tf.fill([indices.shape[1]], step)
        if drawn := images.geometry.drawn:
            rows["uniforms"] = uniforms_of(images.seed, rows["epoch"], rows["index"], drawn)
        return rows

    def load(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        contents = read(row["index"])
        return row | {"contents": contents, "shape": shape(contents)}

    def plan(rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        given = [rows[name] for name in ("contents", "shape", "uniforms") if name in rows]
        plans = plan_function(images.geometry)(*given)
        if images.by_python:
            is_excluded = tf.reduce_any(rows["index"][:, None] == by_python, axis=1)
            kinds = tf.where(is_excluded, PYTHON, plans[:, KIND])
            plans = tf.concat([kinds[:, None], plans[:, KIND + 1 :]], axis=1)
        kept = {name: rows[name] for name in ("step", "index", "epoch", "contents")}
        return kept | {"plan": plans}

    dataset = tf.data.Dataset.range(len(indices)).map(_plain(draw)).unbatch()
    dataset = dataset.map(_plain(load), num_parallel_calls=_workers(images))
    return dataset.batch(_PLANNED).map(_plain(plan)).prefetch(1).unbatch()


def decode_operation(images: Images) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
    """Returns an operation from a row of `planned_rows` to its square, decoded by TensorFlow alone.

    Other images than JPEGs are an error of the operation.
    """

    def decode(row: dict[str, tf.Tensor]) -> tf.Tensor:
        square = tf.switch_case(row["plan"][KIND], _kinds(row, images.geometry))
        return tf.ensure_shape(square, images.geometry.shape)

    return decode


def _square_operation(images: Images, changes: bool) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
    """An operation from a row of `planned_rows` to its finished square."""
    augment, size, drawn = images.augment, images.geometry.size, images.geometry.drawn
    plain = without_pixel_changes(augment)
    files = ImageFiles(images.files.paths, size, plain, images.geometry.pixels)

    def python(epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
        out = np.empty(images.geometry.shape, np.uint8)
        if images.training:
            random = image_random(images.seed, int(epoch), int(index), drawn)
            files.train(int(index), random, out)
        else:
            files.evaluate(int(index), out)
        return out

    def finish(row: dict[str, tf.Tensor]) -> tf.Tensor:
        place = [row["epoch"], row["index"]]
        kinds = _kinds(row, images.geometry)
        kinds[PYTHON] = lambda: tf.numpy_function(python, place, tf.uint8, stateful=False)
        square = tf.switch_case(row["plan"][KIND], kinds)
        if changes and images.training and changes_pixels(augment):
            square = tf.numpy_function(images.changed, [square, *place], tf.uint8, stateful=False)
        return tf.ensure_shape(square, images.geometry.shape)

    return finish


def _kinds(row: dict[str, tf.Tensor], geometry: Geometry) -> dict[int, Callable[[], tf.Tensor]]:
    """The operations that make a square, by kind; that of PYTHON fails."""
    contents, plan = row["contents"], row["plan"]

    def fail() -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.Assert(False, ["not a plain JPEG"])]):
            return tf.zeros(geometry.shape, tf.uint8)

    kinds = {
        BLACK: lambda: tf.zeros(geometry.shape, tf.uint8),
        PYTHON: fail,
        JPEG: lambda: decode_jpeg(contents, plan, geometry),
    }
    for branch in range(len(BRANCHES)):
        kinds[PLAIN + branch] = partial(decode_plain, contents, plan, geometry, branch)
    return kinds


def options_of(images: Images) -> tf.data.Options:
    """Returns the options of the dataset: a fixed order, number of threads and memory."""
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = _workers(images)
    options.threading.max_intra_op_parallelism = 1
    return options


def _workers(images: Images) -> int:
    return images.reader.workers()


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without AutoGraph, which takes a second to rewrite it."""
    return tf.autograph.experimental.do_not_convert(function)
