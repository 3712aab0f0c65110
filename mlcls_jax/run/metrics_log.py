"""metrics.jsonl and TensorBoard events of a run; only the first process writes."""

import json
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlcls_jax.run.workdir import METRICS
from mlcls_jax.system.console import print_warning
from mlcls_jax.system.files import write_text

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


class MetricsLog:
    """One JSON object a line per evaluation, and the same numbers as TensorBoard scalars."""

    def __init__(self, workdir: Path, step: int, enabled: bool):
        """Opens the log to go on after `step`; later lines, of a lost stretch, are dropped."""
        self._path, self._step, self._enabled = workdir / METRICS, step, enabled
        self._events = Events(workdir / "tensorboard", step)
        if not enabled:
            return
        kept = [record for record in read_metrics(workdir) if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        # Without later lines and one that was cut short.
        if self._path.exists() and self._path.read_bytes() != text.encode():
            write_text(self._path, text)

    def write_epoch(self, record: dict[str, Any]) -> None:
        """Appends an evaluation's record; its numbers go to TensorBoard as val/* and train/*.

        The line is on the disk when this returns, lest a checkpoint outlive its line.

        Raises:
            OSError: metrics.jsonl cannot be written.
        """
        if not self._enabled:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                f"{self._path} cannot be written ({error.strerror}). Mend that, and the same "
                "command continues from the latest checkpoint"
            ) from error
        numbers = {f"train/{key}": record[key] for key in ("train_loss", "images_per_second")}
        for part in ("val", "val_raw", "val_ema", "base_rate", "train_sample"):  # not all each time
            numbers |= {f"{part}/{key}": value for key, value in record.get(part, {}).items()}
        self.write_scalars(record["step"], numbers)
        self._events.flush()

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """TensorBoard scalars of a step."""
        if self._enabled:
            self._events.add(step, values)

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._events.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The records so far; a last line that a crash cut short is left out.

    Raises:
        ValueError: another line is damaged.
    """
    path = workdir / METRICS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is damaged ({error}); remove that line") from error
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ValueError(f"{place} is damaged (no record of a step); remove that line")
    return record
