"""Where the seconds of a run go, by the clock on the wall."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

OTHER = "other"


class Spent:
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
