"""Decoded images by their index: in memory, or in a file that is mapped into it.

The file is a page of header, the index with a row per image, and the images one after the
other.  It only grows, and a row is written after what it points to: who reads it meanwhile sees
whole images, those that were there when it was opened, and a writer that is killed leaves a file
that the next one goes on with.
"""

import json
import os
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlcls_jax.system.files import replacing

# height: of what is stored; 0: nothing is there; UNREADABLE: nothing, as it could not be decoded.
# whole_height, whole_width: of the image for which it stands.
# size, mtime: of its file, in bytes and nanoseconds; -1 where there was none.
ROW = np.dtype(
    [(name, "<i8") for name in ("offset", "size", "mtime")]
    + [(name, "<i4") for name in ("height", "width", "whole_height", "whole_width")]
)
UNREADABLE = -1

_PAGE = 4096
_SLAB = 1 << 26  # bytes; a system call for each image would run out of mappings
_FLUSH_SECONDS = 2.0  # so much work is lost when a writer is killed


class Store(Protocol):
    """Where a build puts images.  rows: of ROW, one for each image, with all that is there."""

    rows: np.ndarray

    def add(self, index: int, row: dict[str, int], pixels: np.ndarray | None) -> None:
        """Stores uint8 [height, width, 3], or that there is none; row: the other fields of ROW."""
        ...


class InMemory:
    """A store that ends with the process."""

    def __init__(self, count: int):
        """count: of images, none of which is there yet."""
        self.rows = np.zeros(count, ROW)
        self._images: list[np.ndarray | None] = [None] * count
        self._slab, self._used = np.empty(0, np.uint8), 0

    def add(self, index: int, row: dict[str, int], pixels: np.ndarray | None) -> None:
        """See Store."""
        if pixels is not None:
            if self._used + pixels.size > self._slab.size:
                self._slab, self._used = np.empty(max(_SLAB, pixels.size), np.uint8), 0
            kept = self._slab[self._used : self._used + pixels.size].reshape(pixels.shape)
            np.copyto(kept, pixels)
            self._images[index], self._used = kept, self._used + pixels.size
        self.rows[index] = _row(row, 0, pixels)

    def pixels(self, index: int) -> np.ndarray | None:
        """uint8 [height, width, 3], or None where none is there."""
        return self._images[index]


class OnDisk:
    """The images of a file, as it was when it was opened.  rows: see Store."""

    def __init__(self, path: Path, rows: np.ndarray):
        """rows: from `read_rows`."""
        self.rows = rows
        self._data = np.asarray(np.memmap(path, np.uint8, "r"))

    def pixels(self, index: int) -> np.ndarray | None:
        """uint8 [height, width, 3], not writable, or None where none is there."""
        row = self.rows[index]
        offset, height, width = int(row["offset"]), int(row["height"]), int(row["width"])
        if height <= 0:
            return None
        return self._data[offset : offset + height * width * 3].reshape(height, width, 3)


class Appending:
    """A store at the end of a file: use it in a `with` block, one process at a time."""

    def __init__(self, path: Path, header: dict[str, Any], rows: np.ndarray | None):
        """Opens the file, or replaces it by a new one.

        Args:
            path: of the file, whose folder is there.
            header: what determines its content.
            rows: from `read_rows`; None: there is no such file yet.

        Raises:
            OSError: it cannot be written.
        """
        count = header["images"]
        if rows is None:
            with replacing(path) as partial:
                partial.write_bytes(_page(header) + bytes(ROW.itemsize * count))
        self.rows = np.zeros(count, ROW) if rows is None else rows
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115
        # What a killed writer left without a row is not worth a search.
        self._end = self._file.seek(0, os.SEEK_END)
        self._pending: list[int] = []
        self._due = time.monotonic() + _FLUSH_SECONDS

    def __enter__(self) -> "Appending":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        # On a full disk there is room for the rows still; if not, the first error says why.
        with self._file, suppress(OSError) if error else nullcontext():
            self.flush()

    def add(self, index: int, row: dict[str, int], pixels: np.ndarray | None) -> None:
        """See Store; OSError where the disk is full."""
        if pixels is not None:
            self._write(self._end, np.ascontiguousarray(pixels))
        self.rows[index] = _row(row, self._end, pixels)
        self._end += 0 if pixels is None else pixels.size
        self._pending.append(index)
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Writes the rows of what was added, which is safely on the disk before."""
        if self._pending:
            os.fsync(self._file.fileno())
            for index in self._pending:
                self._write(_PAGE + index * ROW.itemsize, self.rows[index : index + 1])
            self._pending.clear()
        self._due = time.monotonic() + _FLUSH_SECONDS

    def _write(self, offset: int, values: np.ndarray) -> None:
        self._file.seek(offset)
        rest = values.reshape(-1).view(np.uint8).data
        while rest:
            rest = rest[self._file.write(rest) :]


def read_rows(path: Path, header: dict[str, Any]) -> np.ndarray | None:
    """The index of a file: of ROW, writable, zeros where a row points to what is not there.

    None if there is no such file, or one with another header.
    """
    try:
        with open(path, "rb") as file:
            if file.read(_PAGE) != _page(header):
                return None
            data = file.read(ROW.itemsize * header["images"])
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    if len(data) < ROW.itemsize * header["images"]:
        return None
    rows = np.frombuffer(bytearray(data), ROW)
    there = rows["height"] > 0
    ends = rows["offset"] + 3 * rows["height"].astype(np.int64) * rows["width"]
    rows[there & ((ends > size) | (rows["offset"] < _PAGE + len(data)))] = 0
    return rows


def _page(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True).encode().ljust(_PAGE - 1) + b"\n"


def _row(row: dict[str, int], offset: int, pixels: np.ndarray | None) -> np.ndarray:
    values = np.zeros((), ROW)
    height, width = (UNREADABLE, 0) if pixels is None else pixels.shape[:2]
    for name, value in {**row, "offset": offset, "height": height, "width": width}.items():
        values[name] = value
    return values
