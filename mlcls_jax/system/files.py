"""Atomic file and folder writes that last through a power failure, and checksums of folders.

A file or folder is written under a temporary name in the same folder and then renamed, so that it
is either complete or absent. Its contents are on disk before it is renamed, and its new name before
the function returns. In a copy of a folder in a bucket, it is then uploaded as a whole.
"""

import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlcls_jax.system.bucket import check_bucket, copy_of, uploaded
from mlcls_jax.system.remote import was_address

CHECKSUMS = "SHA256SUMS"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name next to `path`; the file written there replaces `path` on success.

    The name is unique across processes and machines, so the last of several writers wins.

    Args:
        path: file to create or replace; its folder must exist.

    Raises:
        OSError: the file cannot be written or renamed.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        sync_file(partial)
        move(partial, path)
        uploaded(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `path` on success and deleted on failure.

    Args:
        path: folder to create; it must not exist, or be empty.

    Raises:
        ValueError: `path` already exists or was an address, or it cannot be created or written.
    """
    check_new(path)
    path = Path(os.path.abspath(path))  # "." has no name
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        make_folder(path.parent)
        partial.mkdir()
    except OSError as error:
        raise ValueError(f"folder {path} cannot be created: {error}") from error
    try:
        yield partial
        sync_tree(partial)
        move(partial, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Renames a file or folder, replacing a file or an empty folder; the new name is on disk.

    Raises:
        OSError: it cannot be renamed.
    """
    os.replace(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, if they are missing; all of them are on disk.

    Raises:
        OSError: a folder cannot be made.
    """
    path = Path(os.path.abspath(path))
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Waits until the contents of a file are on disk.

    Raises:
        OSError: the disk fails.
    """
    _sync(path, os.O_RDWR)


def sync_folder(folder: Path) -> None:
    """Waits until the names of the files and folders in a folder are on disk.

    Some file systems cannot do this for a folder, or need no call for it.

    Raises:
        OSError: the disk fails.
    """
    try:
        _sync(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise


def sync_tree(folder: Path) -> None:
    """Waits until all files and folders in a folder are on disk; its own name may not be.

    Raises:
        OSError: the disk fails.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_new(path: Path) -> None:
    """Raises ValueError if `path` was an address, or exists and is not an empty folder."""
    if was_address(path):
        raise ValueError(
            f"{str(path).replace(':/', '://', 1)} is in a bucket, but this is written to a disk; "
            "name a folder there, and copy it to the bucket afterwards"
        )
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} already exists; choose a new folder, or remove it first")


def check_writable(folder: Path) -> None:
    """Raises ValueError if no file can be written in the folder, or in its bucket.

    Commands call this before a long computation whose results are written there.
    """
    if found := copy_of(folder):
        check_bucket(found[0])
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise ValueError(f"{folder}: no file can be written there ({error.strerror})") from error


def leftovers(folder: Path) -> list[Path]:
    """Returns the temporary files that killed writers left in a folder."""
    return [file for file in folder.glob(".*.partial") if file.is_file()]


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, with its line ends unchanged.

    Raises:
        ValueError: the file cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, contents: bytes) -> None:
    """Writes a file atomically.

    Raises:
        ValueError: the file cannot be written.
    """
    try:
        with replacing(path) as partial:
            partial.write_bytes(contents)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error


def append(path: Path, contents: bytes, sync: bool = True) -> None:
    """Appends to a file, created if necessary.

    After a failure the file is as it was, so that no line is cut in half.

    Args:
        path: of the file.
        contents: to append.
        sync: whether they are on disk when this returns.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "ab", buffering=0) as file:
        size, rest = file.tell(), memoryview(contents)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            if sync:
                os.fsync(file.fileno())
                if not size:
                    sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise
    uploaded(path)


def is_full(error: BaseException) -> bool:
    """Returns whether an error, or its cause, says that a disk or a quota is full."""
    if isinstance(error.__cause__, OSError) and is_full(error.__cause__):
        return True
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(text in str(error) for text in ("No space left", "ENOSPC", "quota exceeded"))


def write_checksums(folder: Path) -> None:
    """Writes the SHA-256 of every file in the subfolders to the file CHECKSUMS.

    All files are on disk when this returns.

    Raises:
        OSError: a file cannot be read, or CHECKSUMS cannot be written.
    """
    lines = [f"{_digest(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8", newline="")
    sync_tree(folder)


def damage(folder: Path, parts: Iterable[str] | None = None) -> str:
    """Describes the first difference between a folder and its checksums.

    Args:
        folder: a folder that `write_checksums` has seen; a missing CHECKSUMS counts as damage.
        parts: names of the subfolders to check; None checks all.

    Returns:
        For example "model/manifest.ocdbt is missing"; "" if the folder is intact.
    """
    try:
        if not is_regular(folder / CHECKSUMS):
            raise OSError
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return f"{CHECKSUMS} cannot be read"
    listed = dict(line.split("  ", 1)[::-1] for line in lines if "  " in line)
    if len(listed) < len(lines) or not listed:
        return f"{CHECKSUMS} is truncated"
    parts = None if parts is None else set(parts)
    present = set(_files(folder))
    for name in sorted(present):  # catches a list that was truncated at a line end
        if name not in listed and (parts is None or name.split("/")[0] in parts):
            return f"{name} is not in {CHECKSUMS}"
    for name, digest in listed.items():
        if parts is not None and name.split("/")[0] not in parts:
            continue
        if name not in present:  # nothing else is opened: it could be a device, or a link to one
            return f"{name} is missing"
        try:
            if _digest(folder / name) != digest:
                return f"{name} does not match its checksum"
        except OSError as error:
            return f"{name} cannot be read ({error})"
    return ""


def is_regular(path: Path) -> bool:
    """Returns whether a path is a file, and not a link, a device, a FIFO or a folder."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _files(folder: Path) -> list[str]:
    """Returns the regular files in the subfolders; links are not followed."""
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    names = (file.relative_to(folder).as_posix() for file in files if is_regular(file))
    return sorted(name for name in names if "/" in name)


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def cache_folder() -> Path:
    """Returns the folder of downloads and compiled programs.

    It is $MLCLS_JAX_CACHE if that is set, else ~/.cache/mlcls_jax.
    """
    return Path(os.environ.get("MLCLS_JAX_CACHE", "~/.cache/mlcls_jax")).expanduser()
