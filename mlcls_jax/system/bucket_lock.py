"""A lock in a bucket: an object that names its owner, who rewrites it every few seconds.

An object is created only if there is none, which gs://, s3:// and fsspec's memory:// promise. But
the owner of a lock may die without a word, and no server notices. So an object that stays the same
for STALE_SECONDS belongs to nobody. Clocks of different machines are not compared.

An owner that was frozen for longer finds another one in its place. It then uploads nothing more.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlcls_jax.system.bucket import Copy
from mlcls_jax.system.lock import HeldError, describe_owner, is_gone, this_process
from mlcls_jax.system.remote import asked

BEAT_SECONDS = 15.0
STALE_SECONDS = 60.0
_POLL_SECONDS = 1.0


@contextmanager
def held_in_bucket(copy: Copy, name: str, tell: Callable[[str], None]) -> Iterator[str]:
    """Holds a lock in a bucket within the block.

    Args:
        copy: of the folder; it uploads nothing more once another process has the lock.
        name: of the lock in the folder.
        tell: called with a message before waiting for a sign of life of the owner.

    Yields:
        The previous owner, as in HeldError.owner, if it ended without releasing the lock; else "".

    Raises:
        HeldError: another process holds the lock.
        OSError: the bucket cannot be read or written.
    """
    lock = _Lock(copy, name)
    previous_owner = lock.acquire(tell)
    ended = threading.Event()
    beats = threading.Thread(target=lock.beat, args=(ended,), daemon=True)
    beats.start()
    try:
        yield previous_owner
    finally:
        ended.set()
        beats.join()
        with suppress(OSError):
            if lock.read().get("token") == lock.token:
                copy.delete([name])


class _Lock:
    """The lock of one process."""

    def __init__(self, copy: Copy, name: str):
        self.copy, self.address = copy, copy.at(name)
        self.token = secrets.token_hex(8)
        self._owner = this_process() | {"machine": _machine(), "token": self.token}
        self._beats = 0

    def acquire(self, tell: Callable[[str], None]) -> str:
        """Creates the object, and returns the previous owner if it left one behind."""
        previous = ""
        while not self._write(mode="create"):
            owner = self.read()
            if not (_is_from_here(owner) and (owner["pid"] == os.getpid() or is_gone(owner))):
                self._watch(owner, tell)
            if owner:
                previous = describe_owner(owner)
                with suppress(FileNotFoundError):
                    asked(self.copy.files.rm_file, self.address)
        return previous

    def _watch(self, owner: dict[str, Any], tell: Callable[[str], None]) -> None:
        """Returns if the owner has ended; raises HeldError at its next sign of life."""
        end, has_told = time.monotonic() + STALE_SECONDS, False
        while time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            now = self.read()
            if not now:  # released
                return
            if now != owner:
                raise HeldError(self.address, describe_owner(now))
            if not has_told:
                tell(
                    f"{self.address} names {describe_owner(owner)}; waiting up to "
                    f"{STALE_SECONDS:.0f} s to see whether it still runs"
                )
                has_told = True

    def beat(self, ended: threading.Event) -> None:
        """Rewrites the object until the block has ended or another process has the lock."""
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # the network may come back
                owner = self.read()
                if owner and owner.get("token") != self.token:
                    self.copy.lost = (
                        f"{self.copy.address} was taken over by {describe_owner(owner)}, because "
                        f"this process gave no sign of life for {STALE_SECONDS:.0f} s; nothing "
                        "more is written there"
                    )
                    return
                self._beats += 1
                self._write(mode="overwrite")

    def read(self) -> dict[str, Any]:
        """Returns the owner that the object names; empty without an object."""
        try:
            owner = json.loads(asked(self.copy.files.cat_file, self.address))
        except FileNotFoundError:
            return {}
        except ValueError:
            return {"pid": "unknown"}
        return owner if isinstance(owner, dict) and owner else {"pid": "unknown"}

    def _write(self, mode: str) -> bool:
        """Writes the object; returns False if it must be new but exists."""
        text = json.dumps(self._owner | {"beats": self._beats}).encode()
        try:
            asked(self.copy.files.pipe_file, self.address, text, mode=mode)
        except OSError:
            if mode == "create" and self.read():
                return False
            raise
        return True


def _machine() -> str:
    """Returns a name of this machine and its process numbers; "" if the system has none.

    Machines in a cloud may share a host name, and containers may share a machine.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} " + os.readlink(
            "/proc/self/ns/pid"
        )
    except OSError:
        return ""


def _is_from_here(owner: dict[str, Any]) -> bool:
    """Returns whether the process numbers of an owner are those of this machine."""
    return bool(_machine()) and owner.get("machine") == _machine() and "pid" in owner
