"""Where the wall-clock seconds of a run go."""

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
    """Adds up the seconds of a run by activity, in the main thread."""

    def __init__(self, began: float | None = None):
        """Starts the clock.

        Args:
            began: start of the first interval by time.perf_counter(); None for now.
        """
        self._began = time.perf_counter() if began is None else began
        self._seconds: dict[str, float] = {}

    def add(self, activity: str, seconds: float) -> None:
        """Adds seconds to an activity."""
        self._seconds[activity] = self._seconds.get(activity, 0.0) + seconds

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Adds the seconds of a block to an activity."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(activity, time.perf_counter() - began)

    def add_rest(self, activity: str) -> None:
        """Adds all seconds that no activity has yet."""
        self.add(activity, max(self._rest(), 0.0))

    def take(self) -> dict[str, float]:
        """Returns the seconds by activity since the last call, which add up to all of them."""
        self.add_rest(OTHER)
        taken = {activity: round(seconds, 3) for activity, seconds in self._seconds.items()}
        self._began, self._seconds = time.perf_counter(), {}
        return taken

    def _rest(self) -> float:
        return time.perf_counter() - self._began - sum(self._seconds.values())


class StartupTimer:
    """Times the start of a run by stages, and prints them after the first step.

    Garbage collection is off until then: imports and tracing create many objects that stay, and
    scanning them again and again takes a quarter of their time.  After the first step these
    objects are never scanned again, which spares the loop the longest pauses.
    """

    def __init__(self, began: float):
        """Starts the first stage.

        Args:
            began: start of the run by time.perf_counter().
        """
        self.began, self._stages, self._is_watched = began, {}, False
        self._stage_began = began

    def __enter__(self) -> "StartupTimer":
        gc.disable()
        return self

    def __exit__(self, *_) -> None:
        gc.unfreeze()
        gc.enable()

    def reached(self, stage: str) -> None:
        """Ends a stage, which began where the previous one ended."""
        now = time.perf_counter()
        self._stages[stage], self._stage_began = now - self._stage_began, now

    def watched(self, step: Callable) -> Callable:
        """Returns the step, whose first call in the run is watched to its end by a thread."""
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
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self._stages.items())
        seconds = self._stage_began - self.began
        console.print(f"first step done {seconds:.1f} s after the start ({stages})")
        gc.collect()
        gc.freeze()
        gc.enable()
