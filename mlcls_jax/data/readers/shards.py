"""Writes the shards of packed data sets: tar, TFRecord or ArrayRecord files.

Each shard holds the unchanged bytes of some images, and a copy of their labels for other programs.

    tar           KEY.EXTENSION with the image and KEY.json, as WebDataset reads them
    tfrecord      tf.train.Example, as tf.data.TFRecordDataset reads them
    array_record  the same examples, not compressed
"""

import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlcls_jax.data.images.extensions import EXTENSIONS, extension_of
from mlcls_jax.data.readers.records import FOOTER, HEADER, array_record, tensorflow
from mlcls_jax.data.readers.storage import open_new
from mlcls_jax.system.console import one_line
from mlcls_jax.system.remote import is_remote

_UNREADABLE = re.compile(r"[.\x00-\x1f\x7f]")  # WebDataset's keys end at the first dot
_META = re.compile(r"__[^/]*__/")  # WebDataset skips files in such a folder


@dataclass(frozen=True)
class PackedImage:
    """An image file with its labels.

    name: the file name, relative, with forward slashes.
    contents: the bytes of the file.
    classes: names of the classes.
    labels: int8 [class]: 1, 0 or -1 (unknown).
    targets: soft labels, float32 [class] in [0, 1] or -1 (unknown); None if there are none.
    """

    name: str
    contents: bytes
    classes: tuple[str, ...]
    labels: np.ndarray
    targets: np.ndarray | None = None

    @property
    def present(self) -> list[str]:
        """Names of the classes that are present."""
        return [self.classes[index] for index in np.flatnonzero(self.labels == 1)]


class Shard(Protocol):
    """A shard that is being written.

    size: its size in bytes so far.
    """

    size: int

    def add(self, image: PackedImage) -> tuple[int, int | None]:
        """Appends an image, and returns the offset and the record of its bytes; see `Part`."""
        ...

    def close(self) -> None:
        """Completes the file."""
        ...


def shard_opener(shard_format: str, place: str) -> Callable[[str], Shard]:
    """Returns a function that begins a shard, given its path.

    Args:
      shard_format: tar, tfrecord or array_record.
      place: the folder or address of the data set.

    Raises:
      ValueError: the package that writes the format is missing, or cannot write to the place.
    """
    if shard_format == "tar":
        keys = Keys()
        return lambda path: _Tar(path, keys)
    tf = tensorflow(f"packing as {shard_format}")
    if shard_format == "tfrecord":
        return lambda path: _TfRecord(path, tf)
    module = array_record("packing as array_record")
    if is_remote(place):
        raise ValueError(
            f"{place}: ArrayRecord files are only written to local folders; pack as tar or "
            "tfrecord, or pack to a folder and copy it"
        )
    return lambda path: _ArrayRecord(path, tf, module)


class Keys:
    """Gives each image the name by which WebDataset finds it in a tar file.

    WebDataset splits the name of a file at the first dot after the last slash. The first half is
    the key, and all files with one key are one sample. So dots and control characters in a file
    name become underscores, except for the dot before the extension, and a key that is taken gets
    a number.
    """

    def __init__(self):
        self._taken: set[str] = set()

    def split(self, name: str, contents: bytes) -> tuple[str, str]:
        """Returns the key, which is new, and the extension.

        Args:
          name: the file name; without the extension of an image, its contents give one.
          contents: the bytes of the file.
        """
        folder, slash, base = name.rpartition("/")
        stem, _, extension = base.rpartition(".")
        if f".{extension.lower()}" not in EXTENSIONS:
            stem, extension = base, extension_of(contents)
        folder = "".join(" " if ord(letter) < 32 else letter for letter in folder)
        key = f"{folder}{slash}{_UNREADABLE.sub('_', stem) or '_'}"
        key = f"-{key}" if _META.match(key) else key
        first, number = key, 2
        while key in self._taken:
            key, number = f"{first}_{number}", number + 1
        self._taken.add(key)
        return key, extension


class _Tar:
    """A tar file in the layout of WebDataset."""

    def __init__(self, path: str, keys: Keys):
        self._file, self._keys, self.size = open_new(path), keys, 0
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, image: PackedImage) -> tuple[int, int | None]:
        key, extension = self._keys.split(image.name, image.contents)
        offset = self._append(f"{key}.{extension}", image.contents)
        labels = {"filename": image.name, "classes": image.present, "labels": image.labels.tolist()}
        if image.targets is not None:
            labels["soft_labels"] = [round(value, 6) for value in image.targets.tolist()]
        self._append(f"{key}.json", json.dumps(labels).encode())
        self.size = self._tar.offset
        return offset, None

    def _append(self, name: str, contents: bytes) -> int:
        entry = tarfile.TarInfo(name)
        entry.size = len(contents)
        self._tar.addfile(entry, io.BytesIO(contents))
        return self._tar.offset - -(-len(contents) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def close(self) -> None:
        with self._file:
            self._tar.close()
            self.size = self._file.tell()


class _TfRecord:
    """A TFRecord file; for an address, a local file that is uploaded when it is complete."""

    def __init__(self, path: str, tf: Any):
        self._path, self._tf, self.size, self._local = path, tf, 0, path
        self._folder = ExitStack()
        if is_remote(path):
            self._local = f"{self._folder.enter_context(tempfile.TemporaryDirectory())}/shard"
        with _writing(path):
            self._writer = tf.io.TFRecordWriter(self._local)

    def add(self, image: PackedImage) -> tuple[int, int | None]:
        record = _example(self._tf, image)
        with _writing(self._path):
            self._writer.write(record)
        offset = self.size + HEADER + record.find(image.contents)
        self.size += HEADER + len(record) + FOOTER
        return offset, None

    def close(self) -> None:
        with self._folder:
            with _writing(self._path):
                self._writer.close()
            if is_remote(self._path):
                with open(self._local, "rb") as written, open_new(self._path) as file:
                    shutil.copyfileobj(written, file, 1 << 20)


class _ArrayRecord:
    """An ArrayRecord file on a local disk."""

    def __init__(self, path: str, tf: Any, module: Any):
        self._path, self._tf, self.size, self._count = path, tf, 0, 0
        # One record per group, which random access needs; images do not get smaller.
        self._writer = module.ArrayRecordWriter(path, "group_size:1,uncompressed")

    def add(self, image: PackedImage) -> tuple[int, int | None]:
        record, number = _example(self._tf, image), self._count
        with _writing(self._path):
            self._writer.write(record)
        self._count += 1
        self.size += len(record)
        return record.find(image.contents), number

    def close(self) -> None:
        with _writing(self._path):
            self._writer.close()
        self.size = Path(self._path).stat().st_size


@contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turns the errors of the packages that write records into OSErrors."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{path}: {one_line(error, limit=200)}") from error


def _example(tf: Any, image: PackedImage) -> bytes:
    """The image as a serialized tf.train.Example."""

    def texts(*values: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    labels = tf.train.Feature(int64_list=tf.train.Int64List(value=image.labels.tolist()))
    features = {
        "image/encoded": texts(image.contents),
        "image/filename": texts(image.name.encode()),
        "image/labels": labels,
        "image/class/text": texts(*(name.encode() for name in image.present)),
    }
    if image.targets is not None:
        values = tf.train.FloatList(value=image.targets.tolist())
        features["image/soft_labels"] = tf.train.Feature(float_list=values)
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)
