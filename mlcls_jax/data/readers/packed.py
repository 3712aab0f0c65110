"""Packed data sets: a label CSV, the original image files in a few large ones, and an index.

    labels.csv      as it was given
    pack-00000.tar  image files, as they were; `tar -xf` gives them back
    index.csv       filename, shard, offset, size
    pack.json       the format, and the size of each of the other files

pack.json is written last: without it, or with a file of another size, the data set is not whole.
Any image is one read at a known place, as it is from an ArrayRecord; but tar needs no package,
and what it holds can be looked at.  (JPEGs do not compress, so nothing is lost by not trying.)
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

LABELS, INDEX, MANIFEST = "labels.csv", "index.csv", "pack.json"
FORMAT = 1
_COLUMNS = ["filename", "shard", "offset", "size"]


def is_packed(csv: str | Path) -> bool:
    """Whether that can only be a packed data set: a folder or an address, not a CSV file."""
    return is_remote(csv) or os.path.isdir(os.path.expanduser(csv))


def read_packed(place: str | Path, **options: Any) -> LabelTable:
    """Reads the labels of a packed data set and where its images are.

    Args:
      place: a folder, or an address such as gs://bucket/photos.
      options: of `read_labels`.

    Raises:
      ValueError: no packed data set, or not a whole one; or see `read_labels`.
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
            f"{place}: {len(missing)} of {len(table)} images are in {LABELS} but were never "
            f"packed: {quoted(missing)}; pack the data set again"
        )
    return table


class Packer:
    """Writes a packed data set; see `packing`.  folder: where to, until it is whole."""

    def __init__(self, folder: str, shard_bytes: int):
        self.folder, self._most = folder, shard_bytes
        self._tar: tarfile.TarFile | None = None
        self._file: Any = None  # that the tar is written to
        self._name = ""  # of that file
        self._sizes: dict[str, int] = {}
        self._rows: dict[str, tuple[str, str, int, int]] = {}

    def add(self, name: str, contents: bytes) -> None:
        """Appends an image file, to another shard where this one would grow too large.

        Raises:
            ValueError: its name is not new.
        """
        if name in self._rows:
            raise ValueError(f"two images have the file name {name!r}; rename one")
        if self._tar and self._tar.offset + len(contents) > self._most:
            self.close()
        tar = self._tar or self._next_shard()
        entry = tarfile.TarInfo(name)
        entry.size = len(contents)
        tar.addfile(entry, io.BytesIO(contents))
        start = tar.offset - -(-len(contents) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        self._rows[name] = (name, self._name, start, len(contents))

    def finish(self, labels: bytes) -> None:
        """Writes the index and the rest. labels: contents of the label CSV."""
        self.close()
        frame = pd.DataFrame(self._rows.values(), columns=_COLUMNS)
        # Names in quotes: the csv module does not see that a carriage return needs them.
        index = frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        self._write(LABELS, labels)
        self._write(INDEX, index.encode())
        manifest = {"format": FORMAT, "images": len(self._rows), "files": self._sizes}
        self._write(MANIFEST, json.dumps(manifest, indent=1).encode())

    def close(self) -> None:
        """Ends the shard that is open."""
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
    """A new packed data set, whole or not there: `add` images, then `finish`.

    In a bucket, which renames nothing, files of one that was given up remain without pack.json.

    Args:
        place: a folder or an address, new or empty.
        shard_bytes: a shard is larger only if a single image is.

    Raises:
        ValueError: there is something already, or nothing can be written there.
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
            raise ValueError(f"{place} is there already; name a new place, or remove it first")
        with closing(Packer(place, shard_bytes)) as packer:
            yield packer
    except OSError as error:
        raise ValueError(f"{place} cannot be written: {error}") from error


def _check_whole(place: str) -> dict[str, int]:
    """Names and bytes of its files."""
    found = file_sizes(place)
    if MANIFEST not in found:
        raise ValueError(
            f"{place} is no packed data set: it has no {MANIFEST}, which is written last; "
            "name a CSV file, or run python -m mlcls_jax.pack (again)"
        )
    try:
        manifest = json.loads(read_whole(f"{place}/{MANIFEST}"))
        version, wanted = manifest["format"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place}/{MANIFEST} is damaged; pack the data set again") from error
    if version != FORMAT:
        raise ValueError(
            f"{place} is packed in format {version}, this version of mlcls_jax reads {FORMAT}; "
            "pack the data set again"
        )
    if wrong := [name for name, size in wanted.items() if found.get(name) != size]:
        raise ValueError(
            f"{place}: {len(wrong)} files are missing or not of their size: {quoted(wrong)}; "
            "copy the packed data set again"
        )
    return found


def _read_index(place: str, sizes: dict[str, int]) -> dict[str, str]:
    """By file name, the part of a shard that the image is."""
    types: Any = {"filename": str, "shard": str, "offset": "int64", "size": "int64"}
    contents = io.BytesIO(read_whole(f"{place}/{INDEX}"))
    try:
        frame = pd.read_csv(contents, dtype=types, keep_default_na=False, na_filter=False)
        rows = list(zip(*(frame[column].tolist() for column in _COLUMNS), strict=True))
        # No shard that is elsewhere, and no more memory than there is file.
        if not all(0 <= start <= start + n <= sizes[shard] for _, shard, start, n in rows):
            raise ValueError("a part that is in no shard")
    except (ValueError, KeyError) as error:
        raise ValueError(f"{place}/{INDEX} is damaged; pack the data set again") from error
    return {
        name: Part(f"{place}/{name}", f"{place}/{shard}", offset, size)
        for name, shard, offset, size in rows
    }


@contextmanager
def _label_file(place: str) -> Iterator[Path]:
    """The label CSV as a file of this machine; errors about it name the one in the bucket."""
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
