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
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.loaders.choice import is_native
from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.data.loaders.order import NO_IMAGE
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
from mlcls_jax.data.readers.storage import Part
from mlcls_jax.data.sampling import generator_after, image_random

AHEAD = 2  # batches that are ready in addition to the next one
# Images that are planned together.  Their files are in memory meanwhile, so these are few.
_PLANNED = 32


@dataclass(frozen=True)
class Images:
    """The images of a split, and how they become squares.

    paths: the path of each image.
    geometry: how images become squares.
    augment: of the run.
    reader: how they are read.
    seed: of the random numbers.
    training: whether the images are augmented.
    by_python: indices of images that TensorFlow cannot decode, although Python can.
    """

    paths: Sequence[str]
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
    geometry = train_geometry(augment, size, reader.pixels)
    return Images(paths, geometry, augment, reader, seed, training=True)


def eval_images(paths: Sequence[str], size: int, augment: Augment, reader: Reader) -> Images:
    """Returns images for evaluation; the arguments are those of `eval_batches`."""
    geometry = eval_geometry(augment, size, reader.pixels)
    return Images(paths, geometry, augment, reader, seed=0, training=False)


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
    shape = tf.image.extract_jpeg_shape if _are_jpegs(images, indices) else jpeg_shape
    read = _read_operation(images, indices)
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


def _are_jpegs(images: Images, indices: np.ndarray) -> bool:
    """Whether all images are JPEGs by their names; those that are not fail, and go to Python."""
    if images.by_python or (indices == NO_IMAGE).any():
        return False
    return all(path.lower().endswith((".jpg", ".jpeg")) for path in images.paths)


def _read_operation(images: Images, indices: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """An operation from an index to the bytes of the image: string []; "" for a black one."""
    paths = images.paths
    if not all(is_native(path) for path in paths):
        read = _read_in_python(paths)
    elif any(isinstance(path, Part) for path in paths):
        read = _read_parts(paths)
    else:
        read = _read_files(paths)
    if (indices == NO_IMAGE).any():
        return lambda index: tf.cond(index == NO_IMAGE, lambda: "", lambda: read(index))
    return read


def _read_in_python(paths: Sequence[str]) -> Callable[[tf.Tensor], tf.Tensor]:
    """An operation from an index to the bytes of an image, which Python reads."""

    def read(index: tf.Tensor) -> tf.Tensor:
        contents = tf.numpy_function(
            lambda index: read_file(paths[int(index)]), [index], tf.string, stateful=False
        )
        return tf.ensure_shape(contents, ())

    return read


def _read_files(paths: Sequence[str]) -> Callable[[tf.Tensor], tf.Tensor]:
    """An operation from an index to the bytes of an image that is a file."""
    names = tf.constant([str(path) for path in paths])
    return lambda index: tf.io.read_file(tf.gather(names, index))


def _read_parts(paths: Sequence[Any]) -> Callable[[tf.Tensor], tf.Tensor]:
    """An operation from an index to the bytes of an image that is a part of a larger file.

    The only operation that reads a part of a file is a dataset of records of fixed length.
    """
    shards = sorted({path.shard for path in paths})
    number = {shard: place for place, shard in enumerate(shards)}
    shard_of = tf.constant([number[path.shard] for path in paths])
    starts = tf.constant([path.offset for path in paths], tf.int64)
    lengths = tf.constant([path.size for path in paths], tf.int64)
    names = tf.constant(shards)
    sizes = tf.constant([tf.io.gfile.stat(shard).length for shard in shards], tf.int64)

    def read(index: tf.Tensor) -> tf.Tensor:
        shard, start, length = (tf.gather(part, index) for part in (shard_of, starts, lengths))
        record = tf.data.FixedLengthRecordDataset(
            tf.gather(names, shard)[None],
            record_bytes=length,
            header_bytes=start,
            footer_bytes=tf.gather(sizes, shard) - start - length,
            buffer_size=length,
        )
        return record.get_single_element()

    return read


def _square_operation(images: Images, changes: bool) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
    """An operation from a row of `planned_rows` to its finished square."""
    augment, size, drawn = images.augment, images.geometry.size, images.geometry.drawn
    plain = without_pixel_changes(augment)
    files = ImageFiles(images.paths, size, plain, images.geometry.pixels)

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
