"""Reads and writes packed data sets: the image files in a few large tar files, and an index.

    labels.csv      the label CSV, unchanged
    pack-00000.tar  the image files, unchanged; `tar -xf` extracts them
    index.csv       filename, shard, offset, size
    pack.json       the format, and the size of each of the other files

pack.json is written last: without it, or if a file has another size, the data set is incomplete.
Reading an image is one read at a known offset, as with ArrayRecord, but tar needs no extra package
and its content can be inspected. The files are not compressed, because JPEGs do not get smaller.
"""

import csv
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_cells import quoted
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.storage import (
    Part,
    file_sizes,
    is_remote,
    is_vacant,
    open_new,
    read_whole,
)
from mlcls_jax.system.files import new_folder
from mlcls_jax.system.invocation import command

LABELS, INDEX, MANIFEST = "labels.csv", "index.csv", "pack.json"
FORMAT = 1
_COLUMNS = ["filename", "shard", "offset", "size"]


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
    try:
        sources = _read_index(place, _check_whole(place))
        with _label_file(place) as labels:
            table = read_labels(labels, place, sources=sources, **options)
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

    def __init__(self, folder: str, shard_bytes: int):
        self.folder, self._shard_bytes = folder, shard_bytes
        self._tar: tarfile.TarFile | None = None
        self._file: Any = None  # the file of the open shard
        self._name = ""  # its name
        self._sizes: dict[str, int] = {}
        self._rows: dict[str, tuple[str, str, int, int]] = {}

    def add(self, name: str, contents: bytes) -> None:
        """Appends an image file; begins a new shard if this one would become too large.

        Args:
          name: the file name.
          contents: the bytes of the file.

        Raises:
          ValueError: the file name is not new.
        """
        if name in self._rows:
            raise ValueError(f"two images have the file name {name!r}; rename one")
        if self._tar and self._tar.offset + len(contents) > self._shard_bytes:
            self.close()
        tar = self._tar or self._next_shard()
        entry = tarfile.TarInfo(name)
        entry.size = len(contents)
        tar.addfile(entry, io.BytesIO(contents))
        start = tar.offset - -(-len(contents) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        self._rows[name] = (name, self._name, start, len(contents))

    def finish(self, labels: bytes) -> None:
        """Writes the labels, the index and the manifest.

        Args:
          labels: the contents of the label CSV.
        """
        self.close()
        frame = pd.DataFrame(self._rows.values(), columns=_COLUMNS)
        # All names are quoted, because the csv module does not quote carriage returns.
        index = frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        self._write(LABELS, labels)
        self._write(INDEX, index.encode())
        manifest = {"format": FORMAT, "images": len(self._rows), "files": self._sizes}
        self._write(MANIFEST, json.dumps(manifest, indent=1).encode())

    def close(self) -> None:
        """Closes the open shard, if there is one."""
        if self._tar:
            tar, self._tar = self._tar, None
            with self._file:
                tar.close()
                self._sizes[self._name] = self._file.tell()

    def _next_shard(self) -> tarfile.TarFile:
        self._name = f"pack-{len(self._sizes):05d}.tar"
        self._file = open_new(f"{self.folder}/{self._name}")
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)
        return self._tar

    def _write(self, name: str, contents: bytes) -> None:
        with open_new(f"{self.folder}/{name}") as file:
            file.write(contents)
        self._sizes[name] = len(contents)


@contextmanager
def packing(place: str, shard_bytes: int) -> Iterator[Packer]:
    """Yields a Packer for a new packed data set: `add` images, then `finish`.

    After an error, a folder is not created at all. Buckets cannot rename, so files of an
    unfinished data set remain there, without pack.json.

    Args:
      place: a folder or an address, new or empty.
      shard_bytes: the largest size of a shard; only a single larger image exceeds it.

    Raises:
      ValueError: the place already exists, or cannot be written to.
    """
    if not is_remote(place):
        with (
            new_folder(Path(place).expanduser()) as folder,
            closing(Packer(str(folder), shard_bytes)) as packer,
        ):
            yield packer
        return
    place = place.rstrip("/")
    try:
        if not is_vacant(place):
            raise ValueError(f"{place} already exists; choose another place, or remove it first")
        with closing(Packer(place, shard_bytes)) as packer:
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
    contents = io.BytesIO(read_whole(f"{place}/{INDEX}"))
    try:
        frame = pd.read_csv(contents, dtype=types, keep_default_na=False, na_filter=False)
        rows = list(zip(*(frame[column].tolist() for column in _COLUMNS), strict=True))
        # Each image must lie in a shard of this data set, so that no more is read than exists.
        if not all(0 <= start <= start + n <= sizes[shard] for _, shard, start, n in rows):
            raise ValueError("an image is outside its shard")
    except (ValueError, KeyError) as error:
        raise ValueError(f"{place}/{INDEX} is damaged; pack the data set again") from error
    return {
        name: Part(f"{place}/{name}", f"{place}/{shard}", offset, size)
        for name, shard, offset, size in rows
    }


@contextmanager
def _label_file(place: str) -> Iterator[Path]:
    """The label CSV as a local file; errors about it name the address in the bucket."""
    if not is_remote(place):
        yield Path(place) / LABELS
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / LABELS
        copy.write_bytes(read_whole(f"{place}/{LABELS}"))
        try:
            yield copy
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), f"{place}/{LABELS}")) from error
