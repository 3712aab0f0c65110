"""Locks between processes, by a file that is there while one is held.

The system keeps the lock (flock), so that it ends with its process, however that ends; on a network
file system it is as good as that one's locks.  Where there are none, the file alone is the lock,
and that its process has gone is known on the same machine only.
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
except ImportError:  # not a Unix
    fcntl = None

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # on this file system
_POLL_SECONDS = 0.2
_NAMES = {"process": "pid", "on host": "host", "since": "since"}


class HeldError(ValueError):
    """Another process has the lock.  owner: such as "process 7 on host a, since …"."""

    def __init__(self, path: Path, owner: str):
        super().__init__(f"{path} is held by {owner}; if there is no such process, delete the file")
        self.owner = owner


@contextmanager
def held(path: Path) -> Iterator[str]:
    """Holds the lock within the block.

    Args:
        path: of a file for this alone, in a folder that is there.

    Yields:
        What held it last, if that ended without letting go, as in HeldError.owner; or "".

    Raises:
        HeldError: another process has it.
        OSError: the file cannot be made.
    """
    file, left_by = _take(path)
    try:
        yield left_by
    finally:
        with suppress(OSError):  # its folder may have gone
            if _is_at(file, path):
                path.unlink()
        file.close()


@contextmanager
def waited_for(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """`held`, as soon as no other process has it.

    Args:
        path: as for `held`.
        tell: is told, once, that another process has it.

    Raises:
        OSError: the file cannot be made.
    """
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(path))
                break
            except HeldError as error:
                if not told:
                    tell(f"another process is at it; waiting ({error})")
                told = True
                time.sleep(_POLL_SECONDS)
        yield


def _take(path: Path) -> tuple[FileIO, str]:
    """The locked file, with this process's name in it, and whose it was; see `held`."""
    while True:
        new, file = True, None
        try:
            file = FileIO(path, "x+")
        except FileExistsError:
            new = False
            if path.is_symlink():
                raise OSError(errno.ELOOP, f"{path} is a link; delete it") from None
            with suppress(FileNotFoundError):  # it has been let go of since
                file = FileIO(path, "r+")
        if file is None:
            continue
        try:
            owner = _owner(file)
            taken = _flock(file)
            if taken is None:  # then the file is the lock
                taken = new or _has_gone(owner)
            if not taken:
                raise HeldError(path, _describe(owner))
            if _is_at(file, path):  # and not a file that was unlinked between the lines above
                _write_owner(file)
                return file, "" if new else _describe(owner)
        except BaseException:
            file.close()
            raise
        file.close()


def _flock(file: FileIO) -> bool | None:
    """Whether the system gives this process the lock; None: it keeps none here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write_owner(file: FileIO) -> None:
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    file.truncate(0)
    file.seek(0)
    file.write(json.dumps(owner).encode())


def _owner(file: FileIO) -> dict[str, Any]:
    """Empty where it has not been written yet, or cannot be read."""
    try:
        owner = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _describe(owner: dict[str, Any]) -> str:
    named = (f"{name} {owner[key]}" for name, key in _NAMES.items() if key in owner)
    return " ".join(named) or "another process"


def _has_gone(owner: dict[str, Any]) -> bool:
    """Whether there is no such process: known of this machine only, and not on Windows, where the
    same question ends the process."""
    if owner.get("host") != socket.gethostname() or os.name == "nt":
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return False
    return False
