"""Work beside the main thread, so that a run starts sooner."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

T = TypeVar("T")

IMPORTED = time.perf_counter()  # train.py imports this before anything large

_threads = ThreadPoolExecutor(thread_name_prefix="mlcls_jax")
_running: set[Future] = set()
_LOOK_SECONDS = 0.1


class StoppedError(Exception):
    """Raised in place of a result that nobody needs any more."""


class _Stop(Protocol):
    def is_set(self) -> bool: ...


def run(function: Callable[..., T], *args) -> Future[T]:
    """Starts the call in a thread.  `result()` of what is returned waits and raises its error."""
    future = _threads.submit(function, *args)
    _running.add(future)
    future.add_done_callback(_running.discard)
    return future


def result(future: Future[T], stop: _Stop) -> T:
    """Waits for what `run` gave; StoppedError where `stop` is set before it is there."""
    while not future.done():
        if stop.is_set():
            raise StoppedError
        wait([future], _LOOK_SECONDS)
    return future.result()


def is_busy() -> bool:
    """Whether a call has not ended: a process that leaves by `sys.exit` would wait for it."""
    return bool(_running)
