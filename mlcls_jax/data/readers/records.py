"""Reads record files: TFRecord with TensorFlow, and ArrayRecord with the package array_record.

Both packages are imported only when they are needed.
"""

import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from mlcls_jax.system.console import one_line
from mlcls_jax.system.remote import is_remote

HEADER, FOOTER = 12, 4  # bytes before and after a record of a TFRecord file: length and checksums
_BUFFER = 8 << 20  # bytes that are read at once from a TFRecord file
# The readers' defaults read far more than one image at a time.
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"
_RANDOM_ACCESS_BUFFER = 1 << 15


def tensorflow(purpose: str) -> Any:
    """Imports TensorFlow, and hides the accelerators from it, because JAX uses them.

    Args:
      purpose: what needs it, for the error message.

    Raises:
      ValueError: it is not installed.
    """
    try:
        _be_quiet()
        tf: Any = importlib.import_module("tensorflow")
    except ImportError as error:
        raise ValueError(
            f"{purpose} needs another package ({one_line(error)}); install mlcls_jax[tf_data]"
        ) from error
    for kind in ("GPU", "TPU"):
        with suppress(RuntimeError, ValueError):  # TensorFlow is in use already
            tf.config.set_visible_devices([], kind)
    return tf


def _be_quiet() -> None:
    """Keeps TensorFlow from printing several lines when it starts, and for each bad image.

    It reads these variables when it logs, so they stay set.  Lines about oneDNN are printed at any
    level, and only convolutions gain from it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def array_record(purpose: str) -> Any:
    """Imports the module of array_record that reads and writes files.

    Args:
      purpose: what needs it, for the error message.

    Raises:
      ValueError: it is not installed, or does not run on this system.
    """
    try:
        return importlib.import_module("array_record.python.array_record_module")
    except ImportError as error:
        raise ValueError(
            f"{purpose} needs another package ({one_line(error)}); install mlcls_jax[tfds], or "
            "array_record alone"
        ) from error


def tfrecords(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields the offset in the file and the bytes of each record of a TFRecord file.

    Args:
      path: a path, or an address that TensorFlow can read, such as gs://bucket/file.

    Raises:
      ValueError: TensorFlow is not installed, or the file cannot be read.
    """
    tf, offset = tensorflow("reading TFRecord files"), HEADER
    try:
        for record in tf.data.TFRecordDataset(path, buffer_size=_BUFFER).as_numpy_iterator():
            yield offset, record
            offset += len(record) + FOOTER + HEADER
    except tf.errors.OpError as error:
        reason = one_line(error).rpartition("}} ")[2][:200]  # without the name of the operation
        raise ValueError(
            f"{path}: the file is damaged, or is not a TFRecord file ({reason}); prepare the data "
            "set again"
        ) from error


def array_records(path: str) -> Iterator[bytes]:
    """Yields the bytes of each record of an ArrayRecord file.

    Args:
      path: a path, or an address such as gs://bucket/file.

    Raises:
      ValueError: array_record is not installed, or the file cannot be read.
    """
    try:
        reader = _open(path)
        for index in range(reader.num_records()):
            yield _read(reader, path, index)
    except OSError as error:
        raise ValueError(f"{one_line(error)}; prepare the data set again") from error


def read_record(path: str, index: int) -> bytes:
    """Returns one record of an ArrayRecord file; several threads may call it.

    Args:
      path: a path, or an address such as gs://bucket/file.
      index: the number of the record in the file, from 0.

    Raises:
      ValueError: array_record is not installed.
      OSError: the file or the record cannot be read.
    """
    return _read(_opened(path), path, index)


def _read(reader: Any, path: str, index: int) -> bytes:
    try:
        return reader.read([index])[0]
    except RuntimeError as error:
        raise OSError(f"{path}: {one_line(error, limit=200)}") from error


def _open(path: str) -> Any:
    """A reader of an ArrayRecord file, which all threads may use."""
    module = array_record("reading ArrayRecord files")
    if not is_remote(path) and not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist")
    reader = module.ArrayRecordReader(
        path, _RANDOM_ACCESS, file_reader_buffer_size=_RANDOM_ACCESS_BUFFER
    )
    if not reader.ok():
        raise OSError(f"{path}: the file is damaged, or is not an ArrayRecord file")
    return reader


# A reader keeps its file open. macOS allows 256 open files.
_opened = functools.lru_cache(maxsize=128)(_open)
