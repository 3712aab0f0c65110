"""Work beside the main thread, so that a run starts sooner."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

IMPORTED = time.perf_counter()  # train.py imports this before anything large

_threads = ThreadPoolExecutor(thread_name_prefix="mlcls_jax")
_running: set[Future] = set()


def run(function: Callable[..., T], *args) -> Future[T]:
    """Starts the call in a thread.  `result()` of what is returned waits and raises its error."""
    future = _threads.submit(function, *args)
    _running.add(future)
    future.add_done_callback(_running.discard)
    return future


def is_busy() -> bool:
    """Whether a call has not ended: a process that leaves by `sys.exit` would wait for it."""
    return bool(_running)
