"""Stores decoded images by index, in memory or in a memory-mapped file.

A file has a page with the header, an index with one row per image, and the images one after the
other. It only grows, and a row is written after the image that it points to. Readers therefore see
complete images, those stored when they opened the file, and the next writer can continue the file
of one that was killed.
"""

import json
import math
import os
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlcls_jax.system.files import replacing

# height, width: of the stored pixels; height 0: not stored; UNREADABLE: could not be decoded.
# whole_height, whole_width: of the image that the pixels represent.
# size, mtime: of the image file, in bytes and nanoseconds; -1 if it was missing.
ROW = np.dtype(
    [(name, "<i8") for name in ("offset", "size", "mtime")]
    + [(name, "<i4") for name in ("height", "width", "whole_height", "whole_width")]
)
UNREADABLE = -1

_PAGE = 4096
_SLAB = 1 << 26  # bytes; one allocation per image would exhaust the memory mappings
_FLUSH_SECONDS = 2.0  # work lost when a writer is killed


class Store(Protocol):
    """A store that a build writes images to.

    rows: an array of ROW, one row per image, including the images already stored.
    """

    rows: np.ndarray

    def add(self, index: int, row: dict[str, int], pixels: np.ndarray | None) -> None:
        """Stores an image.

        Args:
          index: the index of the image.
          row: the fields of ROW except offset, height and width.
          pixels: uint8 [height, width, channel]; None: the image cannot be decoded.
        """
        ...


class InMemory:
    """A store in the memory of the process."""

    def __init__(self, count: int):
        """Creates an empty store for `count` images."""
        self.rows = np.zeros(count, ROW)
        self._images: list[np.ndarray | None] = [None] * count
        self._slab, self._used = np.empty(0, np.uint8), 0

    def add(self, index: int, row: dict[str, int], pixels: np.ndarray | None) -> None:
        """Implements `Store`."""
        if pixels is not None:
            if self._used + pixels.size > self._slab.size:
                self._slab, self._used = np.empty(max(_SLAB, pixels.size), np.uint8), 0
            kept = self._slab[self._used : self._used + pixels.size].reshape(pixels.shape)
            np.copyto(kept, pixels)
            self._images[index], self._used = kept, self._used + pixels.size
        self.rows[index] = _row(row, 0, pixels)

    def pixels(self, index: int) -> np.ndarray | None:
        """Returns an image, uint8 [height, width, channel], or None if it is not stored."""
        return self._images[index]


class OnDisk:
    """The images of a file at the time it was opened; rows: see Store."""

    def __init__(self, path: Path, rows: np.ndarray, channels: int):
        """Maps the file; rows: from `read_rows`; channels: of each image."""
        self.rows, self._channels = rows, channels
        self._data = np.asarray(np.memmap(path, np.uint8, "r"))

    def pixels(self, index: int) -> np.ndarray | None:
        """Returns an image, read-only uint8 [height, width, channel]; None if it is not stored."""
        row = self.rows[index]
        offset, height, width = int(row["offset"]), int(row["height"]), int(row["width"])
        if height <= 0:
            return None
        shape = height, width, self._channels
        return self._data[offset : offset + math.prod(shape)].reshape(shape)


class Appending:
    """A store that appends to a file; use it in a `with` block, in one process at a time."""

    def __init__(self, path: Path, header: dict[str, Any], rows: np.ndarray | None):
        """Opens the file, or replaces it by a new one.

        Args:
          path: the file; its folder must exist.
          header: what determines its content.
          rows: from `read_rows`; None: begin a new file.

        Raises:
          OSError: the file cannot be written.
        """
        count = header["images"]
        if rows is None:
            with replacing(path) as partial:
                partial.write_bytes(_page(header) + bytes(ROW.itemsize * count))
        self.rows = np.zeros(count, ROW) if rows is None else rows
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115
        # Images that a killed writer left without a row are not reused.
        self._end = self._file.seek(0, os.SEEK_END)
        self._pending: list[int] = []
        self._due = time.monotonic() + _FLUSH_SECONDS

    def __enter__(self) -> "Appending":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        # A full disk still has room for the rows; if not, the first error gives the reason.
        with self._file, suppress(OSError) if error else nullcontext():
            self.flush()

    def add(self, index: int, row: dict[str, int], pixels: np.ndarray | None) -> None:
        """Stores an image; see Store.

        Raises:
          OSError: the disk is full.
        """
        if pixels is not None:
            self._write(self._end, np.ascontiguousarray(pixels))
        self.rows[index] = _row(row, self._end, pixels)
        self._end += 0 if pixels is None else pixels.size
        self._pending.append(index)
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Writes the rows of the added images, after their pixels are safely on disk."""
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
    """Returns the index of a file, or None if it does not exist or has another header.

    Args:
      path: the file.
      header: the expected header.

    Returns:
      A writable array of ROW; rows that point beyond the end of the file are zero.
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
    stored = rows["height"] > 0
    ends = rows["offset"] + header["channels"] * rows["height"].astype(np.int64) * rows["width"]
    rows[stored & ((ends > size) | (rows["offset"] < _PAGE + len(data)))] = 0
    return rows


def _page(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True).encode().ljust(_PAGE - 1) + b"\n"


def _row(row: dict[str, int], offset: int, pixels: np.ndarray | None) -> np.ndarray:
    values = np.zeros((), ROW)
    height, width = (UNREADABLE, 0) if pixels is None else pixels.shape[:2]
    for name, value in {**row, "offset": offset, "height": height, "width": width}.items():
        values[name] = value
    return values
