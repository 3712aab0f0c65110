"""Background threads that prepare work while the main thread continues."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

T = TypeVar("T")

IMPORTED = time.perf_counter()  # train.py imports this module before any large one

_threads = ThreadPoolExecutor(thread_name_prefix="mlcls_jax")
_running: set[Future] = set()
_left: list[str] = []  # what other packages' threads may still wait for
_POLL_SECONDS = 0.1
TELL_SECONDS = 5.0  # a longer wait is announced


class StoppedError(Exception):
    """A stop was requested before the result of a background call was available."""


class _Stop(Protocol):
    def is_set(self) -> bool: ...


def run(function: Callable[..., T], *args) -> Future[T]:
    """Calls the function in a thread.

    Returns:
        A future, whose `result()` waits for the call and raises its error.
    """
    future = _threads.submit(function, *args)
    _running.add(future)
    future.add_done_callback(_running.discard)
    return future


def result(future: Future[T], stop: _Stop, tell: Callable[[], None] | None = None) -> T:
    """Waits for a call started by `run` and returns its result.

    Args:
        future: of the call.
        stop: ends the wait.
        tell: is called once if the call takes long.

    Raises:
        StoppedError: `stop` was set before the call ended.
    """
    began = time.perf_counter()
    while not future.done():
        if stop.is_set():
            raise StoppedError
        if tell is not None and time.perf_counter() - began > TELL_SECONDS:
            tell()
            tell = None
        wait([future], _POLL_SECONDS)
    return future.result()


def leave(reason: str) -> None:
    """Notes that threads of another package may wait for something that never comes."""
    _left.append(reason)


def is_busy() -> bool:
    """Returns whether a call is still running; `sys.exit` would wait for it."""
    return bool(_running)


def is_left() -> bool:
    """Returns whether a thread of another package may wait forever, as would `sys.exit` for it."""
    return bool(_left)
