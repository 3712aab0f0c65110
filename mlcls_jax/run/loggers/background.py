"""Loggers that ask a server: a thread calls them, so that a slow or dead one delays nothing."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mlcls_jax.run.loggers.logger import LoggedImage, LoggedRun, RunLogger
from mlcls_jax.system.console import one_line, print_warning

END_SECONDS = 60.0  # time that a logger has after the end of the run
STEP = "step"  # the last step that a logger has taken, in what is kept about its run


class BackgroundLogger(RunLogger):
    """Calls another logger in a thread of its own.

    If the logger fails, or takes too long at the end, a warning says so, and nothing more is sent
    to it.  Steps that it has taken before the run was continued are not sent again.
    """

    def __init__(self, name: str, start: Callable[[LoggedRun], RunLogger], run: LoggedRun):
        """Starts nothing; the call of `config` does.

        Args:
            name: of the logger, for messages.
            start: returns the logger; may take long, and may fail.
            run: to show.
        """
        self._name, self._start, self._run = name, start, run
        self._taken, self._step = int(run.kept.get(STEP, 0)), 0
        self._calls: SimpleQueue[Callable[[RunLogger], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"log to {name}", daemon=True)

    def config(self, values: dict[str, Any]) -> None:
        """Starts the logger."""
        self._thread.start()
        self._put(lambda logger: logger.config(values))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Passes numbers on."""
        if step > self._taken:
            self._step = step
            self._put(lambda logger: logger.scalars(step, values))

    def images(self, step: int, title: str, images: Sequence[LoggedImage]) -> None:
        """Passes images on."""
        self._put(lambda logger: logger.images(step, title, images))

    def artifacts(self, files: Sequence[Path]) -> None:
        """Passes files on."""
        self._put(lambda logger: logger.artifacts(files))

    def flush(self) -> None:
        """Passes it on, and keeps how far the logger is."""
        step = self._step

        def flush(logger: RunLogger) -> None:
            logger.flush()
            self._run.keep({STEP: max(step, self._taken)})

        self._put(flush)

    def end(self, state: str) -> None:
        """Waits until the logger has taken everything, within a bounded time."""
        if not self._thread.is_alive():
            return
        self.flush()
        self._put(lambda logger: logger.end(state))
        self._calls.put(None)
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            self._warn(f"it has not taken everything within {END_SECONDS:.0f} s")

    def _put(self, call: Callable[[RunLogger], None]) -> None:
        if self._thread.is_alive():
            self._calls.put(call)

    def _work(self) -> None:
        try:
            logger = self._start(self._run)
            while call := self._calls.get():
                call(logger)
        except (Exception, SystemExit) as error:  # of a library, a server or a network
            self._warn(f"{type(error).__name__}: {one_line(error)}")

    def _warn(self, problem: str) -> None:
        print_warning(
            f"log.to={self._name}: {problem}; nothing more is sent to it, and training continues"
        )
