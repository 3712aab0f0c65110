"""From the command to the end of the first step: what the time went into, and no other waste."""

import gc
import time
from collections.abc import Callable
from typing import Any

import jax

from mlcls_jax import background
from mlcls_jax.terminal import console


class FirstStep:
    """The stretches of a start, told when the first step has ended.

    Until then there is no garbage collection: imports and tracing make many objects that stay, and
    looking through them again and again is a quarter of their time.  Afterwards these objects are
    never looked at again, which spares the loop the longest pauses.
    """

    def __init__(self, began: float):
        """began: by time.perf_counter()."""
        self.began, self._stretches, self._is_watched = began, {}, False
        self._last = began

    def __enter__(self) -> "FirstStep":
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
                background.run(self._end, metrics)
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
