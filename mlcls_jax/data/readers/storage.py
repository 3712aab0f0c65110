"""Access to files, parts of files and folders, on this machine or in a bucket.

A path that contains `://`, such as gs://bucket/photos, is read with fsspec, which is imported only
if needed. All other paths are local.
"""

import functools
import os
from typing import Any

from mlcls_jax.data.readers.records import read_record
from mlcls_jax.system.remote import asked, file_system_of, is_remote


class Part(str):
    """The position of an image in a shard, usable like the path of a file.

    As a string it is the path that the image would have as a file, so that messages, lists of bad
    images, sets and dicts treat it like any other path.

    shard: path or address of the file that contains the image.
    offset, size: the position in the shard, in bytes; or in the record, if there is one.
    record: the number of a record in the shard, which is then an ArrayRecord file. Its records may
        be compressed, and are not contiguous in the file, so they have no offset there.
    """

    __slots__ = ("offset", "record", "shard", "size")
    shard: str
    offset: int
    size: int
    record: int | None

    def __new__(cls, text: str, shard: str, offset: int, size: int, record: int | None = None):
        part = super().__new__(cls, text)
        part.shard, part.offset, part.size, part.record = shard, offset, size, record
        return part

    def __reduce__(self):
        return Part, (str(self), self.shard, self.offset, self.size, self.record)


def is_vacant(address: str) -> bool:
    """Returns whether an address does not exist yet or is an empty folder."""
    files = file_system_of(address)
    return not asked(files.exists, address) or not asked(files.ls, address)


def open_new(path: str) -> Any:
    """Opens a file for writing; an existing file is replaced."""
    if is_remote(path):
        return _Upload(path)
    return open(path, "wb")


def read_whole(path: str) -> bytes:
    """Returns the bytes of a file.

    Raises:
      OSError: the file cannot be read.
    """
    if is_remote(path):
        return asked(file_system_of(path).cat_file, path)
    with open(path, "rb") as file:
        return file.read()


def read_part(part: Part) -> bytes:
    """Returns the bytes of a part of a file; several threads may call it.

    Raises:
      ValueError: a package that reads the file is not installed.
      OSError: the part cannot be read, or not completely.
    """
    if part.record is not None:
        record = read_record(part.shard, part.record)
        contents = record[part.offset : part.offset + part.size]
    elif is_remote(part.shard):
        read = file_system_of(part.shard).cat_file
        contents = asked(read, part.shard, start=part.offset, end=part.offset + part.size)
    else:
        file = _opened(part.shard)  # keeps the file open, even if another thread evicts it
        contents = _pread(file.descriptor, part.size, part.offset)
    if len(contents) != part.size:
        raise OSError(f"its shard {part.shard} ends before the image; copy the data set again")
    return contents


class _Upload:
    """A file in a bucket that is being written; it appears at the end of the `with` block."""

    def __init__(self, address: str):
        self._address = address
        self._file = asked(file_system_of(address).open, address, "wb")

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        asked(lambda _: self._file.close(), self._address)

    def write(self, contents: bytes) -> int:
        return asked(lambda _: self._file.write(contents), self._address)

    def tell(self) -> int:
        return self._file.tell()


class _Opened:
    """An open file that closes itself when its last user has dropped it."""

    def __init__(self, path: str):
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self, close=os.close):
        if hasattr(self, "descriptor"):
            close(self.descriptor)


# Opening a file asks the server on a network disk. macOS allows 256 open files.
@functools.lru_cache(maxsize=128)
def _opened(shard: str) -> _Opened:
    return _Opened(shard)


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    """Reads `size` bytes, fewer only at the end of the file; os.pread may stop anywhere."""
    pieces = []
    while size and (piece := os.pread(descriptor, size, offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)
