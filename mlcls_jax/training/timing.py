"""Where the seconds of a run go, by the clock on the wall."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from mlcls_jax.system import threads
from mlcls_jax.system.console import console

OTHER = "other"


class PhaseTimer:
    """Adds up seconds by what they went into, in the main thread; `take` empties it."""

    def __init__(self, began: float | None = None):
        """began: by time.perf_counter(); None: now."""
        self._began = time.perf_counter() if began is None else began
        self._seconds: dict[str, float] = {}

    def add(self, what: str, seconds: float) -> None:
        """Notes seconds that have gone into something."""
        self._seconds[what] = self._seconds.get(what, 0.0) + seconds

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Notes the seconds of a block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(what, time.perf_counter() - began)

    def so_far(self, what: str) -> None:
        """All that nothing was noted for yet went into this."""
        self.add(what, max(self._unnoted(), 0.0))

    def take(self) -> dict[str, float]:
        """Seconds by what they went into since the last call, which add up to all of them."""
        self.so_far(OTHER)
        taken = {what: round(seconds, 3) for what, seconds in self._seconds.items()}
        self._began, self._seconds = time.perf_counter(), {}
        return taken

    def _unnoted(self) -> float:
        return time.perf_counter() - self._began - sum(self._seconds.values())


class StartupTimer:
    """The stretches of a start, told when the first step has ended.

    Until then there is no garbage collection: imports and tracing make many objects that stay, and
    looking through them again and again is a quarter of their time.  Afterwards these objects are
    never looked at again, which spares the loop the longest pauses.
    """

    def __init__(self, began: float):
        """began: by time.perf_counter()."""
        self.began, self._stretches, self._is_watched = began, {}, False
        self._last = began

    def __enter__(self) -> "StartupTimer":
        gc.disable()
        return self

    def __exit__(self, *_) -> None:
        gc.unfreeze()
        gc.enable()

    def reached(self, stretch: str) -> None:
        """Ends a stretch of the start, which began where the last one ended."""
        now = time.perf_counter()
        self._stretches[stretch], self._last = now - self._last, now

    def watched(self, step: Callable) -> Callable:
        """The same step, of which the first call of the run is watched to its end in a thread."""
        if self._is_watched:
            return step

        def first(state: Any, batch: Any) -> tuple[Any, dict]:
            state, metrics = step(state, batch)
            if not self._is_watched:
                self._is_watched = True
                threads.run(self._end, metrics)
            return state, metrics

        return first

    def _end(self, metrics: dict) -> None:
        jax.block_until_ready(metrics)
        self.reached("step")
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self._stretches.items())
        console.print(f"first step done {self._last - self.began:.1f} s after the start ({parts})")
        gc.collect()
        gc.freeze()
        gc.enable()
