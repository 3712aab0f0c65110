"""Failures that the fuzzer must find, in a module that is quick to import."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from hypothesis import strategies as st

from mlcls_jax.data.images.image_error import ImageError

FOUND = {
    "exception": "RuntimeError: an exception",
    "codec": "UnicodeDecodeError",
    "crash": "crashes (SIGSEGV)",
    "computes": "hangs, computing",
    "waits": "hangs, waiting",
    "memory": "MemoryError",
    "lines": "no line for a user",
    "program": "Trespass: subprocess.Popen",
    "connects": "Trespass: socket.connect",
    "writes": "Trespass: open",
    "deletes": "Trespass: os.remove",
}
FATAL = ("crash", "computes", "waits")  # these end or block the process


def planted() -> st.SearchStrategy:
    """The failures that a process survives; they are few, so each is tried."""
    return st.sampled_from([name for name in (*FOUND, "refuses", "accepts") if name not in FATAL])


def crash() -> st.SearchStrategy:
    return st.just("crash")


def computes() -> st.SearchStrategy:
    return st.just("computes")


def waits() -> st.SearchStrategy:
    return st.just("waits")


def fail(kind: str, place: Path) -> None:
    """Fails in the given way; "refuses" and "accepts" are no failures."""
    match kind:
        case "exception":
            raise RuntimeError("an exception")
        case "codec":
            b"\xff".decode()
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "computes":
            while True:
                pass
        case "waits":
            time.sleep(1000)
        case "memory":
            bytearray(4 << 30)
        case "lines":
            raise ImageError("two\nlines")
        case "program":
            subprocess.run(["true"], check=False)
        case "connects":
            socket.create_connection(("127.0.0.1", 1))
        case "writes":
            (place.parent.parent / "elsewhere").write_text("")
        case "deletes":
            os.unlink(Path(place.parent.parent, "fuzz_none"))
        case "refuses":
            raise ValueError("refused")
        case "accepts":
            (place / "folder").mkdir()
            (place / "folder" / "own").write_text("")
