"""Local copies of folders in buckets, such as the workdir gs://bucket/run.

A bucket can't rename, append to or lock a file, and Orbax writes arrays to gs:// alone. A command
therefore works in a copy on this machine, with the same code and the same guarantees as in any
local folder. Each file is uploaded as a whole when it is complete. Messages show its address.

A copy belongs to one process and is deleted at its end. The bucket is what lasts.
"""

import atexit
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mlcls_jax.system.console import one_line, show_as
from mlcls_jax.system.lock import HeldError, held
from mlcls_jax.system.remote import asked, file_system_of, files_below

_PROBE = ".writable-"  # begins the name of a file that lasts for a moment
_LISTINGS = 5  # at most, of a folder whose files are deleted while they are downloaded
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "created")


@dataclass(eq=False)
class Copy:
    """A folder in a bucket and its local copy.

    Attributes:
        address: of the folder, without a slash at its end.
        folder: the copy.
        lost: why nothing may be uploaded any more; "" if it may.
        seen: the version of each file that was downloaded, by its name.
        whole: the names of subfolders that are complete in the copy.
    """

    address: str
    folder: Path
    lost: str = ""
    seen: dict[str, tuple] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)

    @property
    def files(self) -> Any:
        """Returns fsspec's file system of the bucket."""
        return file_system_of(self.address)

    def at(self, name: str) -> str:
        """Returns the address of a file by its name in the folder."""
        return f"{self.address}/{name}"

    def check(self) -> None:
        """Raises OSError if nothing may be uploaded any more."""
        if self.lost:
            raise OSError(self.lost)

    def list(self, name: str) -> dict[str, dict]:
        """Returns what fsspec says of each file below a subfolder, by name in the folder."""
        self.files.invalidate_cache()
        found = files_below(self.at(name))
        names = {f"{name}/{below}": entry for below, entry in found.items()}
        return {name: entry for name, entry in names.items() if _is_inside(name)}

    def download(self, names: Iterable[str]) -> None:
        """Downloads files by their names in the folder, several at once.

        Raises:
            FileNotFoundError: one was deleted since it was listed.
            OSError: one cannot be read.
        """
        targets = {self.at(name): self.folder / name for name in names}
        if not targets:
            return
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        local = [str(target) for target in targets.values()]
        try:
            asked(lambda _: self.files.get(list(targets), local), self.address)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.address}: a file was deleted while it was read ({one_line(error)}); run "
                "the same command again"
            ) from error

    def upload(self, names: Mapping[str, str]) -> None:
        """Uploads files, several at once.

        Args:
            names: the new name in the bucket of each file of the copy, by its name in the copy.

        Raises:
            OSError: one cannot be written, or another process has taken over the folder.
        """
        self.check()
        sources = {str(self.folder / name): self.at(new) for name, new in names.items()}
        if sources:
            put = self.files.put
            asked(lambda _: put(list(sources), list(sources.values())), self.address)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files from the bucket by their names in the folder; missing ones are ignored."""
        self.check()
        for name in names:
            with suppress(FileNotFoundError):
                asked(self.files.rm_file, self.at(name))


_copies: list[Copy] = []  # of this process


def copy_at(address: str, cache: Path) -> Copy:
    """Returns the copy of a folder in a bucket, with the files of the folder as they are now.

    Files in subfolders are downloaded later, by those who know which are needed.

    Args:
        address: such as gs://bucket/run; the folder may not exist yet.
        cache: the folder for copies.

    Raises:
        ValueError: the package of the protocol is missing, or the address has no bucket or folder.
        OSError: the bucket cannot be read, or the copy cannot be written.
    """
    address = address.rstrip("/")
    place = address.partition("://")[2]
    if "/" not in place or not _is_inside(place):
        raise ValueError(
            f"{address}: name a folder in a bucket, such as {address or 'gs://bucket'}/run"
        )
    copy = next((copy for copy in _copies if copy.address == address), None)
    if copy is None:
        copy = Copy(address, _new_folder(cache) / address.rpartition("/")[2])
        copy.folder.mkdir()
        show_as(str(copy.folder.parent), address.rpartition("/")[0])
        _copies.append(copy)
    refresh(copy)
    return copy


def refresh(copy: Copy) -> None:
    """Downloads the files of a folder that are new or have changed, and lists its subfolders.

    Raises:
        OSError: the bucket cannot be read.
    """
    list_again(lambda: _refresh(copy))


def list_again(read: Callable[[], None]) -> None:
    """Calls a function that lists and downloads files; again if one was deleted in between.

    Another process, which starts or trains in the same folder, may delete files at any time.

    Raises:
        OSError: the bucket cannot be read.
    """
    for _ in range(_LISTINGS - 1):
        with suppress(FileNotFoundError):
            return read()
    return read()


def _refresh(copy: Copy) -> None:
    files = copy.files
    files.invalidate_cache()
    try:
        entries = asked(files.ls, copy.address, detail=True)
    except FileNotFoundError:
        entries = []
    base = files._strip_protocol(copy.address).rstrip("/")
    listed = {entry["name"].rstrip("/"): entry for entry in entries}
    found = {name.rpartition("/")[2]: e for name, e in listed.items() if name != base}
    versions = {
        name: (entry["size"], *(str(entry[key]) for key in _VERSIONS if key in entry))
        for name, entry in found.items()
        if entry["type"] == "file" and _is_inside(name) and not name.startswith(_PROBE)
    }
    for name in set(copy.seen) - set(versions):
        (copy.folder / name).unlink(missing_ok=True)
    changed = [name for name, version in versions.items() if copy.seen.get(name) != version]
    copy.download(changed)
    copy.seen = versions
    for name, entry in found.items():
        if entry["type"] != "file" and _is_inside(name):
            (copy.folder / name).mkdir(exist_ok=True)


def copy_of(path: Path) -> tuple[Copy, str] | None:
    """Returns the copy that a path is in and its name there; None for any other path."""
    for copy in _copies:
        if path.is_relative_to(copy.folder):
            return copy, path.relative_to(copy.folder).as_posix()
    return None


def address_of(path: Path) -> str:
    """Returns the address of a path in a copy or next to one, and any other path as it is.

    >>> address_of(Path("runs/mine"))
    'runs/mine'
    """
    for copy in _copies:
        if path.is_relative_to(copy.folder.parent):
            name = path.relative_to(copy.folder.parent).as_posix()
            return f"{copy.address.rpartition('/')[0]}/{name}"
    return str(path)


def uploaded(path: Path) -> None:
    """Uploads a file if it is in a copy; call this when the file is complete.

    Raises:
        OSError: it cannot be written, or another process has taken over the folder.
    """
    if found := copy_of(path):
        copy, name = found
        copy.upload({name: name})


def check_bucket(copy: Copy) -> None:
    """Raises ValueError if no file can be written in the folder of a copy."""
    probe = copy.at(f"{_PROBE}{secrets.token_hex(4)}.partial")
    try:
        asked(copy.files.pipe_file, probe, b"0")
        asked(copy.files.rm_file, probe)
    except FileNotFoundError as error:
        raise ValueError(
            f"{copy.address}: no file can be written there (the bucket does not exist)"
        ) from error
    except OSError as error:
        raise ValueError(f"{copy.address}: no file can be written there ({error})") from error


def _is_inside(name: str) -> bool:
    """Returns whether a name stays in its folder; a bucket may hold objects of any name."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name and bool(name)


def _new_folder(cache: Path) -> Path:
    """Returns a new folder of this process, after deleting those of processes that have ended."""
    cache = Path(os.path.realpath(cache))
    cache.mkdir(parents=True, exist_ok=True)
    for lock in cache.glob("*.lock"):
        with suppress(HeldError, OSError), held(lock):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    folder = cache / secrets.token_hex(6)
    stack = ExitStack()
    stack.enter_context(held(folder.with_suffix(".lock")))
    folder.mkdir()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(stack.close)
    return folder
