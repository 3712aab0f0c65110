"""TensorBoard: event files with scalars, in the folder tensorboard/ of a run."""

import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlcls_jax.run.loggers.logger import RunLogger
from mlcls_jax.system.bucket import uploaded
from mlcls_jax.system.console import print_warning

_FLUSH_SECONDS = 120.0


class Events(RunLogger):
    """Writes scalars to a new TensorBoard event file, which is created with the first scalar.

    The calling thread writes. tensorboardX's SummaryWriter has a thread for that, which ends
    silently if the disk is full; adding to its queue then blocks forever.
    """

    def __init__(self, folder: Path, purge_step: int):
        """Prepares the event file.

        Args:
            folder: for the event file; created with it.
            purge_step: TensorBoard hides earlier events of this step and later ones.
        """
        self._folder, self._purge_step = folder, purge_step
        self._file: Any = None
        self._new_event: Any = None
        self._at_exit: Any = None
        self._has_failed, self._due = False, 0.0

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds scalars of a step, by their names."""
        self._try(lambda: self._add(step, values))

    def flush(self) -> None:
        """Writes buffered scalars, so that TensorBoard shows them."""
        if self._file is not None:
            self._try(self._file.flush)
            self._try(self._upload)

    def end(self, state: str) -> None:
        """Flushes and closes the file; a second call does nothing."""
        if self._file is not None:
            self._at_exit.detach()
            self._try(self._file.close)
            self._file = None
            self._try(self._upload)

    def _upload(self) -> None:
        for file in self._folder.iterdir():
            uploaded(file)

    def _try(self, write: Callable[[], object]) -> None:
        """Writes, unless that has failed before; a failure is a warning."""
        if self._has_failed:
            return
        try:
            write()
        except OSError as error:
            self._has_failed = True
            if self._at_exit:
                self._at_exit.detach()
            print_warning(
                f"no more TensorBoard events are written to {self._folder} "
                f"({error.strerror or error}); training continues"
            )

    def _add(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.summary import scalar  # slow, because it imports torch if installed

        if self._file is None:
            self._file = self._open()
        now = time.time()
        for name, value in values.items():
            event = self._new_event(wall_time=now, step=step, summary=scalar(name, value))
            self._file.write_event(event)
        if time.monotonic() > self._due:
            self._file.flush()
            self._due = time.monotonic() + _FLUSH_SECONDS

    def _open(self) -> Any:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        messages: Any = event_pb2  # protobuf adds its classes at import time
        self._folder.mkdir(parents=True, exist_ok=True)
        file = EventsWriter(str(self._folder / "events"))
        self._at_exit = weakref.finalize(self, file.close)  # also if the run fails
        self._new_event = messages.Event
        start = messages.SessionLog(status=messages.SessionLog.START)
        now = time.time()
        file.write_event(messages.Event(wall_time=now, step=self._purge_step, session_log=start))
        return file
