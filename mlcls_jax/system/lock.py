"""Locks between processes, each held through a lock file.

The operating system holds the lock (flock), so it ends with its process, however that process ends.
On a network file system it is as reliable as that file system's locks.  Without flock the existence
of the file is the lock, and a dead owner is recognised on the same machine only.

The library filelock does not replace this module: it raises on file systems that answer ENOLCK or
EOPNOTSUPP, does not record who holds a lock, and leaves the file behind when it releases one.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # this file system has no locks
_POLL_SECONDS = 0.2
_OWNER_WORDS = {"process": "pid", "on host": "host", "since": "since"}


class HeldError(ValueError):
    """Another process holds the lock.

    owner: the other process, for example "process 7 on host a since 2025-01-31 12:00:00".
    """

    def __init__(self, path: Path | str, owner: str):
        super().__init__(
            f"{path} is held by {owner}; if that process no longer exists, delete the file"
        )
        self.owner = owner


@contextmanager
def held(path: Path) -> Iterator[str]:
    """Holds a lock within the block.

    Args:
        path: lock file, used for nothing else, in an existing folder.

    Yields:
        The previous owner, as in HeldError.owner, if it ended without releasing the lock; else "".

    Raises:
        HeldError: another process holds the lock.
        OSError: the file cannot be created.
    """
    file, previous_owner = _acquire(path)
    try:
        yield previous_owner
    finally:
        with suppress(OSError):  # the folder may have been deleted
            if _is_at(file, path):
                path.unlink()
        file.close()


@contextmanager
def waited_for(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Holds a lock within the block, after waiting until no other process holds it.

    Args:
        path: as for `held`.
        tell: called once with a message if another process holds the lock.

    Raises:
        OSError: the file cannot be created.
    """
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(path))
                break
            except HeldError as error:
                if not told:
                    tell(f"waiting for another process ({error})")
                told = True
                time.sleep(_POLL_SECONDS)
        yield


def _acquire(path: Path) -> tuple[FileIO, str]:
    """Returns the locked file, with this process as its owner, and the previous owner."""
    while True:
        new, file = True, None
        try:
            file = FileIO(path, "x+")
        except FileExistsError:
            new = False
            if path.is_symlink():
                raise OSError(errno.ELOOP, f"{path} is a link; delete it") from None
            with suppress(FileNotFoundError):  # released in the meantime
                file = FileIO(path, "r+")
        if file is None:
            continue
        try:
            owner = _read_owner(file)
            locked = _flock(file)
            if locked is None:  # without flock, the file itself is the lock
                locked = new or is_gone(owner)
            if not locked:
                raise HeldError(path, describe_owner(owner))
            if _is_at(file, path):  # it may have been unlinked between opening and locking
                _write_owner(file)
                return file, "" if new else describe_owner(owner)
        except BaseException:
            file.close()
            raise
        file.close()


def _flock(file: FileIO) -> bool | None:
    """Returns whether the system locked the file for this process; None if it has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _is_at(file: FileIO, path: Path) -> bool:
    """Returns whether the open file is the one that the path names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write_owner(file: FileIO) -> None:
    file.truncate(0)
    file.seek(0)
    file.write(json.dumps(this_process()).encode())


def _read_owner(file: FileIO) -> dict[str, Any]:
    """Returns the recorded owner; empty if none was written yet or it cannot be parsed."""
    try:
        owner = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def this_process() -> dict[str, Any]:
    """Returns what a lock says of this process as its owner."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def describe_owner(owner: dict[str, Any]) -> str:
    """Returns an owner in words, such as "process 7 on host a since 2025-01-31 12:00:00"."""
    words = (f"{word} {owner[key]}" for word, key in _OWNER_WORDS.items() if key in owner)
    return " ".join(words) or "another process"


def is_gone(owner: dict[str, Any]) -> bool:
    """Returns whether the owner of a lock is known to have ended.

    Only processes of this machine can be checked, and none on Windows, where os.kill(pid, 0) ends
    the process.

    Args:
        owner: from `this_process`.
    """
    if owner.get("host") != socket.gethostname() or os.name == "nt":
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return False
    return False
