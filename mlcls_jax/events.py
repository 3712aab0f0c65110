"""TensorBoard events that a training can do without: a full disk is a warning, once."""

import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlcls_jax.terminal import print_warning

_FLUSH_SECONDS = 120.0


class Events:
    """Scalars in a new event file of a folder, which is made with the first one.

    They are written by who adds them.  tensorboardX's SummaryWriter has a thread for that, which
    ends without a word when the disk is full; its queue then keeps whoever adds to it for ever.
    """

    def __init__(self, folder: Path, purge_step: int):
        """purge_step: what the folder has of this step and later ones is not shown any more."""
        self._folder, self._purge_step = folder, purge_step
        self._file: Any = None
        self._new_event: Any = None
        self._at_exit: Any = None
        self._has_failed, self._due = False, 0.0

    def add(self, step: int, values: dict[str, float]) -> None:
        """Scalars of a step, by their names."""
        self._while_it_lasts(lambda: self._add(step, values))

    def flush(self) -> None:
        """Makes TensorBoard see what has been added."""
        if self._file is not None:
            self._while_it_lasts(self._file.flush)

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._file is not None:
            self._at_exit.detach()
            self._while_it_lasts(self._file.close)

    def _while_it_lasts(self, write: Callable[[], object]) -> None:
        if self._has_failed:
            return
        try:
            write()
        except OSError as error:
            self._has_failed = True
            if self._at_exit:
                self._at_exit.detach()
            print_warning(
                f"no more TensorBoard events in {self._folder} ({error.strerror or error}); the "
                "training goes on"
            )

    def _add(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.summary import scalar  # slow, as it imports torch where that is

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

        messages: Any = event_pb2  # which protobuf fills when it is imported
        self._folder.mkdir(parents=True, exist_ok=True)
        file = EventsWriter(str(self._folder / "events"))
        self._at_exit = weakref.finalize(self, file.close)  # also of a run that ends by an error
        self._new_event = messages.Event
        start = messages.SessionLog(status=messages.SessionLog.START)
        now = time.time()
        file.write_event(messages.Event(wall_time=now, step=self._purge_step, session_log=start))
        return file
