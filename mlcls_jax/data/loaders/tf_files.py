"""Reads image files with TensorFlow, by tables of their paths that are made once.

A table of a million paths takes most of a second to make.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.loaders.choice import is_native
from mlcls_jax.data.loaders.order import NO_IMAGE
from mlcls_jax.data.readers.storage import Part

ReadOperation = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True, eq=False)
class Files:
    """The files of some images, as TensorFlow reads them.

    paths: the path of each image.
    are_jpegs: whether all are JPEGs by their names.
    are_native: whether TensorFlow reads all of them by itself.
    read: an operation from an index to the bytes of the image: string [].
    """

    paths: tuple[str, ...]
    are_jpegs: bool
    are_native: bool
    read: ReadOperation

    def read_or_black(self, indices: np.ndarray) -> ReadOperation:
        """Returns `read`, which gives "" for a black image if one is among the indices."""
        if not (indices == NO_IMAGE).any():
            return self.read
        return lambda index: tf.cond(index == NO_IMAGE, lambda: "", lambda: self.read(index))


def files_of(paths: Sequence[str], made: list[Files]) -> Files:
    """Returns the files of images.

    Args:
      paths: the path of each image.
      made: files of earlier calls, of which those of the same paths are returned; new ones are
        added.
    """
    for files in made:
        # Equal names may be parts of other files, so the objects are compared.
        if len(files.paths) == len(paths) and all(map(operator.is_, files.paths, paths)):
            return files
    made.append(_made(paths))
    return made[-1]


def _made(paths: Sequence[str]) -> Files:
    paths = tuple(paths)
    are_native = all(map(is_native, paths))
    if not are_native:
        read = _read_in_python(paths)
    elif any(isinstance(path, Part) for path in paths):
        read = _read_parts(paths)
    else:
        read = _read_files(paths)
    are_jpegs = all(path.lower().endswith((".jpg", ".jpeg")) for path in paths)
    return Files(paths, are_jpegs, are_native, read)


def _read_in_python(paths: Sequence[str]) -> ReadOperation:
    """An operation from an index to the bytes of an image, which Python reads."""

    def read(index: tf.Tensor) -> tf.Tensor:
        contents = tf.numpy_function(
            lambda index: read_file(paths[int(index)]), [index], tf.string, stateful=False
        )
        return tf.ensure_shape(contents, ())

    return read


def _read_files(paths: Sequence[str]) -> ReadOperation:
    """An operation from an index to the bytes of an image that is a file."""
    names = tf.constant([str(path) for path in paths])
    return lambda index: tf.io.read_file(tf.gather(names, index))


def _read_parts(paths: Sequence[Any]) -> ReadOperation:
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
