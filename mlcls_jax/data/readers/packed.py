"""Reads and writes packed data sets: the image files in a few large files, and an index.

    labels.csv      the label CSV, unchanged
    pack-00000.tar  the image files, unchanged, and copies of their labels; see `shards`
    index.csv       filename, shard, offset, size; for ArrayRecord files also record
    pack.json       the format, the classes, and the size of each of the other files

pack.json is written last: without it, or if a file has another size, the data set is incomplete.
Reading an image is one read at a known offset. For tar and TFRecord files it needs no package. The
files are not compressed, because JPEGs do not get smaller. Only labels.csv is used for training.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.csv_writing import csv_text, unescaped_cell
from mlcls_jax.data.readers.listing import file_sizes
from mlcls_jax.data.readers.records import array_record
from mlcls_jax.data.readers.shards import PackedImage, Shard, shard_opener
from mlcls_jax.data.readers.storage import (
    Part,
    is_remote,
    is_vacant,
    open_new,
    read_whole,
)
from mlcls_jax.system.console import quoted
from mlcls_jax.system.files import new_folder
from mlcls_jax.system.invocation import command

LABELS, INDEX, MANIFEST = "labels.csv", "index.csv", "pack.json"
FORMAT = 1
_COLUMNS, _RECORD = ["filename", "shard", "offset", "size"], "record"


def is_packed(csv: str | Path) -> bool:
    """Returns whether a path means a packed data set: a folder or an address, not a CSV file."""
    return is_remote(csv) or os.path.isdir(os.path.expanduser(csv))


def read_packed(place: str | Path, **options: Any) -> LabelTable:
    """Reads the labels of a packed data set and the positions of its images.

    Args:
      place: a folder, or an address such as gs://bucket/photos.
      options: keyword arguments of `read_labels`.

    Returns:
      A LabelTable whose sources are parts of the tar files.

    Raises:
      ValueError: there is no packed data set, it is incomplete, or `read_labels` refuses its
        labels.
    """
    place = str(place).rstrip("/") if is_remote(place) else str(Path(place).expanduser())
    # What the labels of a pack mean was decided when it was made.
    if not any(options.get(name) for name in ("label_columns", "delimiter", "label_column")):
        options["label_columns"] = "*"
    options["empty_cells"] = options.get("empty_cells") or "unknown"
    try:
        sources = _read_index(place, _check_whole(place))
        table = read_labels(f"{place}/{LABELS}", place, sources=sources, **options)
    except OSError as error:
        raise ValueError(f"{place}: the packed data set cannot be read ({error})") from error
    if missing := [name for name in table.filenames if name not in sources]:
        raise ValueError(
            f"{place}: {len(missing)} of {len(table)} images in {LABELS} were not packed: "
            f"{quoted(missing)}; pack the data set again"
        )
    return table


class Packer:
    """Writes a packed data set; see `packing`.

    folder: the folder or address that the files are written to.
    """

    def __init__(self, folder: str, shard_bytes: int, shard_format: str, classes: Sequence[str]):
        self.folder, self._shard_bytes = folder, shard_bytes
        self._format, self._classes = shard_format, tuple(classes)
        self._open_shard = shard_opener(shard_format, folder)
        self._shard: Shard | None = None
        self._name = ""  # of the open shard
        self._sizes: dict[str, int] = {}
        self._rows: dict[str, tuple[str, str, int, int, int | None]] = {}

    def add(
        self, name: str, contents: bytes, labels: np.ndarray, targets: np.ndarray | None = None
    ) -> None:
        """Appends an image file; begins a new shard if this one would become too large.

        Args:
          name: the file name.
          contents: the bytes of the file.
          labels: int8 [class].
          targets: soft labels, float32 [class]; None if there are none.

        Raises:
          ValueError: the file name is not new.
        """
        if name in self._rows:
            raise ValueError(f"two images have the file name {name!r}; rename one")
        if self._shard and self._shard.size + len(contents) > self._shard_bytes:
            self.close()
        shard = self._shard or self._next_shard()
        offset, record = shard.add(PackedImage(name, contents, self._classes, labels, targets))
        self._rows[name] = (name, self._name, offset, len(contents), record)

    def finish(self, labels: bytes) -> None:
        """Writes the labels, the index and the manifest.

        Args:
          labels: the contents of the label CSV.
        """
        self.close()
        frame = pd.DataFrame(self._rows.values(), columns=[*_COLUMNS, _RECORD])
        if self._format != "array_record":
            frame = frame.drop(columns=_RECORD)
        index = csv_text(frame)
        self._write(LABELS, labels)
        self._write(INDEX, index.encode())
        manifest = {
            "format": FORMAT,
            "images": len(self._rows),
            "classes": self._classes,
            "files": self._sizes,
        }
        self._write(MANIFEST, json.dumps(manifest, indent=1).encode())

    def close(self) -> None:
        """Closes the open shard, if there is one."""
        if self._shard:
            shard, self._shard = self._shard, None
            shard.close()
            self._sizes[self._name] = shard.size

    def _next_shard(self) -> Shard:
        self._name = f"pack-{len(self._sizes):05d}.{self._format}"
        self._shard = self._open_shard(f"{self.folder}/{self._name}")
        return self._shard

    def _write(self, name: str, contents: bytes) -> None:
        with open_new(f"{self.folder}/{name}") as file:
            file.write(contents)
        self._sizes[name] = len(contents)


@contextmanager
def packing(
    place: str, shard_bytes: int, shard_format: str, classes: Sequence[str]
) -> Iterator[Packer]:
    """Yields a Packer for a new packed data set: `add` images, then `finish`.

    After an error, a folder is not created at all. Buckets cannot rename, so files of an
    unfinished data set remain there, without pack.json.

    Args:
      place: a folder or an address, new or empty.
      shard_bytes: the largest size of a shard, apart from what its format adds to the images; a
        single larger image exceeds it.
      shard_format: tar, tfrecord or array_record; see `shards`.
      classes: the class names, in the order of the labels.

    Raises:
      ValueError: the place already exists or cannot be written to, or a package is missing.
    """
    if not is_remote(place):
        with (
            new_folder(Path(place).expanduser()) as folder,
            closing(Packer(str(folder), shard_bytes, shard_format, classes)) as packer,
        ):
            yield packer
        return
    place = place.rstrip("/")
    try:
        if not is_vacant(place):
            raise ValueError(f"{place} already exists; choose another place, or remove it first")
        with closing(Packer(place, shard_bytes, shard_format, classes)) as packer:
            yield packer
    except OSError as error:
        raise ValueError(f"{place} cannot be written: {error}") from error


def _check_whole(place: str) -> dict[str, int]:
    """The name and size of each file of a complete data set."""
    found = file_sizes(place)
    if MANIFEST not in found:
        raise ValueError(
            f"{place} is not a complete packed data set, because it has no {MANIFEST}, which is "
            f"written last; use a CSV file, or run {command('pack')} (again)"
        )
    try:
        manifest = json.loads(read_whole(f"{place}/{MANIFEST}"))
        version, expected = manifest["format"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place}/{MANIFEST} is damaged; pack the data set again") from error
    if version != FORMAT:
        raise ValueError(
            f"{place} is packed in format {version}, but this version of mlcls_jax reads format "
            f"{FORMAT}; pack the data set again"
        )
    if wrong := [name for name, size in expected.items() if found.get(name) != size]:
        raise ValueError(
            f"{place}: {len(wrong)} files are missing or have the wrong size: {quoted(wrong)}; "
            "copy the packed data set again"
        )
    return found


def _read_index(place: str, sizes: dict[str, int]) -> dict[str, str]:
    """The position of each image in its shard, by file name."""
    types: Any = {"filename": str, "shard": str, "offset": "int64", "size": "int64"}
    types[_RECORD] = "int64"
    contents = io.BytesIO(read_whole(f"{place}/{INDEX}"))
    try:
        frame = pd.read_csv(contents, dtype=types, keep_default_na=False, na_filter=False)
        frame["filename"] = [unescaped_cell(name) for name in frame["filename"]]
        rows = list(zip(*(frame[column].tolist() for column in _COLUMNS), strict=True))
        records = frame[_RECORD].tolist() if _RECORD in frame else [None] * len(rows)
        # Each image must lie in a shard of this data set, so that no more is read than exists.
        if not all(0 <= start <= start + n <= sizes[shard] for _, shard, start, n in rows):
            raise ValueError("an image is outside its shard")
        if any(record is not None and record < 0 for record in records):
            raise ValueError("an image is outside its shard")
    except (ValueError, KeyError) as error:
        raise ValueError(f"{place}/{INDEX} is damaged; pack the data set again") from error
    if _RECORD in frame:
        array_record("reading ArrayRecord files")  # refuses here, not at the first image
    return {
        name: Part(f"{place}/{name}", f"{place}/{shard}", offset, size, record)
        for (name, shard, offset, size), record in zip(rows, records, strict=True)
    }
