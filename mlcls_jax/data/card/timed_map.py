"""Calls a function for many items in threads, until a time is over."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")

_AT_ONCE = 16  # items of a task, which costs some microseconds


class TimedMap:
    """Threads that take items in their order, and no more of them once the time is over."""

    def __init__(self, threads: int, seconds: float):
        """Starts the clock.

        Args:
          threads: their number.
          seconds: after which no further item is begun, over all calls of `over`.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="data_card")
        self._until = time.monotonic() + seconds

    def __enter__(self) -> "TimedMap":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def over(self, function: Callable[[S], T], items: Sequence[S]) -> list[T | None]:
        """Returns the result for each item; None where a disk failed or the time was over."""

        def some(part: Sequence[S]) -> list[T | None]:
            return [self._one(function, item) for item in part]

        parts = [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
        return [result for results in self._pool.map(some, parts) for result in results]

    def _one(self, function: Callable[[S], T], item: S) -> T | None:
        if time.monotonic() > self._until:
            return None
        try:
            return function(item)
        except OSError:  # a run that reads the image says what is wrong
            return None
