"""Folders and parts of files, local or in a bucket, and nothing about what is in them.

A place with `://` in it, such as gs://bucket/photos, is read through fsspec, which is imported
only then; everything else is a file of this machine.
"""

import functools
import os
from typing import Any


class Part(str):
    """An image inside a shard.

    As text it is the path that the image would have outside: messages and lists of bad
    images name it, and a set or a dict finds it, like any other path.

    shard: path or address of the file that it is in. offset, size: where, in bytes.
    """

    __slots__ = ("offset", "shard", "size")
    shard: str
    offset: int
    size: int

    def __new__(cls, text: str, shard: str, offset: int, size: int):
        part = super().__new__(cls, text)
        part.shard, part.offset, part.size = shard, offset, size
        return part

    def __reduce__(self):
        return Part, (str(self), self.shard, self.offset, self.size)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether that is an address and not a path of this machine."""
    return "://" in os.fspath(path)


@functools.lru_cache
def file_system(protocol: str) -> Any:
    """fsspec's file system for addresses of a protocol such as "gs"; thread-safe.

    Raises:
        ValueError: a package is missing, or there is no such protocol.
    """
    try:
        import fsspec

        options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        return fsspec.filesystem(protocol, **options)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{protocol}:// cannot be read ({error}); install mlcls_jax[bucket] for gs://, "
            "or fsspec's package for it"
        ) from error


def file_system_of(address: str) -> Any:
    """See `file_system`."""
    return file_system(address.partition("://")[0])


def file_sizes(folder: str) -> dict[str, int]:
    """Names and bytes of the files in a folder, by one listing; {} where there is none."""
    if not is_remote(folder):
        if not os.path.isdir(folder):
            return {}
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    try:
        listed = _remote(file_system_of(folder).ls, folder, detail=True)
    except FileNotFoundError:
        return {}
    files = (entry for entry in listed if entry["type"] == "file")
    return {entry["name"].rpartition("/")[2]: entry["size"] for entry in files}


def is_vacant(address: str) -> bool:
    """Whether there is nothing yet at an address."""
    files = file_system_of(address)
    return not _remote(files.exists, address) or not _remote(files.ls, address)


def open_new(path: str) -> Any:
    """A file to write to; what is there already is replaced."""
    if is_remote(path):
        return _Upload(path)
    return open(path, "wb")


def read_whole(path: str) -> bytes:
    """The bytes of a file; OSError where it cannot be read."""
    if is_remote(path):
        return _remote(file_system_of(path).cat_file, path)
    with open(path, "rb") as file:
        return file.read()


def read_part(part: Part) -> bytes:
    """The bytes of a part; OSError where they cannot be read, or not all of them."""
    if is_remote(part.shard):
        read = file_system_of(part.shard).cat_file
        contents = _remote(read, part.shard, start=part.offset, end=part.offset + part.size)
    else:
        file = _opened(part.shard)  # held until it is read: another thread's may be the cached one
        contents = _pread(file.descriptor, part.size, part.offset)
    if len(contents) != part.size:
        raise OSError(f"its shard {part.shard} ends before it; copy the packed data set again")
    return contents


class _Upload:
    """A file in a bucket that is being written; the end of `with` makes it be there."""

    def __init__(self, address: str):
        self._address = address
        self._file = _remote(file_system_of(address).open, address, "wb")

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        _remote(lambda _: self._file.close(), self._address)

    def write(self, contents: bytes) -> int:
        return _remote(lambda _: self._file.write(contents), self._address)

    def tell(self) -> int:
        return self._file.tell()


class _Opened:
    """A file that is open until nobody needs it: also where the cache below drops it."""

    def __init__(self, path: str):
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self, close=os.close):
        if hasattr(self, "descriptor"):
            close(self.descriptor)


# To open a file is a question to the server on a network disk; macOS allows 256 open ones.
@functools.lru_cache(maxsize=128)
def _opened(shard: str) -> _Opened:
    return _Opened(shard)


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes, fewer at the end of the file; os.pread alone may return fewer anywhere."""
    pieces = []
    while size and (piece := os.pread(descriptor, size, offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)


def _remote(call, *arguments, **options) -> Any:
    """Errors of a bucket's library are of no common type; here they are OSErrors.

    arguments: an address first.
    """
    try:
        return call(*arguments, **options)
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OSError(f"{arguments[0]}: {reason}") from error
