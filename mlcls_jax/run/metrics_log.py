"""The logs of a run: metrics.jsonl and TensorBoard events, written by the first process only."""

import json
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlcls_jax.evaluation.base_rate import SAMPLE
from mlcls_jax.run.checkpoint_integrity import EVENTS
from mlcls_jax.run.workdir import METRICS
from mlcls_jax.system.bucket import uploaded
from mlcls_jax.system.console import print_warning
from mlcls_jax.system.files import append, is_full, replacing, write_bytes

_FLUSH_SECONDS = 120.0
# A metric of val in the record of the training sample, over the classes that both have.
_OF_VAL, _OF_VAL_NAMED = "train_sample/val_mAP", "val/mAP_over_classes_of_train_sample"
UNWRITTEN = "unwritten_metrics"  # in the metadata of a checkpoint; see MetricsLog.for_metadata
RECORDS = "metrics_records"  # likewise
_NUMBERS = ("epoch", "train_loss", "images_per_second")  # of every record

# Called with the step and numbers by name, such as {"val/mAP": 0.8}.
Logger = Callable[[int, dict[str, float]], object]


class Events:
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

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds scalars of a step, by their names."""
        self._try(lambda: self._add(step, values))

    def flush(self) -> None:
        """Writes buffered scalars, so that TensorBoard shows them."""
        if self._file is not None:
            self._try(self._file.flush)
            self._try(self._upload)

    def close(self) -> None:
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


class MetricsLog:
    """Writes a JSON line per evaluation, and the same numbers as TensorBoard scalars."""

    def __init__(
        self,
        workdir: Path,
        step: int,
        enabled: bool,
        loggers: Sequence[Logger] = (),
        metadata: dict[str, Any] | None = None,
    ):
        """Opens the log of a run that continues after `step`.

        Lines of later steps are removed, because these steps are repeated.

        Args:
            workdir: of the run.
            step: the restored step; 0 for a new run.
            enabled: False in processes that write nothing.
            loggers: get the same numbers as TensorBoard; one that raises an error gets no more.
            metadata: of the restored checkpoint; see `for_metadata`.
        """
        self._unwritten: list[dict[str, Any]] = []
        self._contents = b""  # what the file holds
        self._loggers = list(loggers)
        self._path, self._step, self._enabled = workdir / METRICS, step, enabled
        self._events = Events(workdir / EVENTS, step)
        if not enabled:
            return
        kept = [record for record in read_metrics(workdir) if record["step"] <= step]
        written, metadata = {record["step"] for record in kept}, metadata or {}
        lacking = [one for one in metadata.get(UNWRITTEN, ()) if not _problem(one)]
        kept += [one for one in lacking if one["step"] not in written]
        self._warn_of_gap(len(kept), int(metadata.get(RECORDS, 0)))
        self._contents = b"".join(map(_line, kept))
        # Drops later lines and a truncated last line.
        if (kept or self._path.exists()) and not self._holds(self._contents):
            write_bytes(self._path, self._contents)

    def _holds(self, contents: bytes) -> bool:
        return self._path.exists() and self._path.read_bytes() == contents

    def for_metadata(self) -> dict[str, Any]:
        """Returns the number of records, and those that a full disk has kept out of the file.

        They are part of the metadata of each checkpoint, so that no checkpoint lacks its record,
        and a run that continues notices if lines were lost.
        """
        count = self._contents.count(b"\n") + len(self._unwritten)
        return {RECORDS: count} | ({UNWRITTEN: list(self._unwritten)} if self._unwritten else {})

    def write_epoch(self, record: dict[str, Any]) -> None:
        """Appends the record of an evaluation; its numbers also go to TensorBoard.

        The line is on disk when this returns, because a checkpoint must not outlive its line.  If
        the disk is full, a warning says so, and the line is written with the next one.

        Raises:
            OSError: metrics.jsonl cannot be written for another reason.
        """
        if not self._enabled:
            return
        self._unwritten.append(record)
        try:
            self._write_lines()
        except OSError as error:
            if not is_full(error):
                raise OSError(self._failure(error)) from error
            print_warning(
                f"{self._path} cannot be written (no space left on device); the next "
                "evaluation will try again"
            )
        numbers = {f"train/{key}": record[key] for key in ("train_loss", "images_per_second")}
        for part in ("val", "val_raw", "val_ema", "base_rate", "train_sample"):  # some are optional
            numbers |= {f"{part}/{key}": value for key, value in record.get(part, {}).items()}
        if _OF_VAL in numbers:
            numbers[_OF_VAL_NAMED] = numbers.pop(_OF_VAL)
        self.write_scalars(record["step"], numbers)
        self._events.flush()

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds TensorBoard scalars of a step, and calls the loggers."""
        if not self._enabled:
            return
        self._events.add(step, values)
        for logger in list(self._loggers):
            try:
                logger(step, dict(values))
            except Exception as error:  # of the user's code or of a network
                self._loggers.remove(logger)
                print_warning(
                    f"a logger failed at step {step} ({type(error).__name__}: {error}) and is not "
                    "called any more; training continues"
                )

    def _write_lines(self) -> None:
        """Appends the unwritten records; writes all if another program has changed the file."""
        new = b"".join(map(_line, self._unwritten))
        size = self._path.stat().st_size if self._path.exists() else 0
        if size == len(self._contents):
            append(self._path, new)
        else:
            print_warning(
                f"{self._path} was cut, changed or deleted meanwhile; it is written again"
            )
            with replacing(self._path) as partial:
                partial.write_bytes(self._contents + new)
        self._contents += new
        self._unwritten = []

    def _warn_of_gap(self, found: int, expected: int) -> None:
        if found < expected:
            print_warning(
                f"{self._path} has {found} of the {expected} evaluations up to step {self._step}: "
                "it was cut, edited or deleted, so the report and the history have a gap; restore "
                "a copy"
            )

    def _failure(self, error: OSError) -> str:
        return (
            f"{self._path} cannot be written ({error.strerror or error}). Fix that, then run the "
            "same command to continue from the latest checkpoint"
        )

    def close(self) -> None:
        """Writes what is missing in metrics.jsonl, and closes the event file.

        Raises:
            OSError: metrics.jsonl cannot be written.
        """
        self._events.close()
        if self._unwritten:
            try:
                self._write_lines()
            except OSError as error:
                raise OSError(self._failure(error)) from error

    def abandon(self) -> None:
        """Closes the log of a run that has failed, as far as it can be written."""
        with suppress(OSError):
            self.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the records of metrics.jsonl, without a last line that a crash has truncated.

    Raises:
        ValueError: another line is damaged.
    """
    path = workdir / METRICS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_record(line, f"{path}, line {index}") for index, line in enumerate(lines, 1)]


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is damaged ({error}); remove that line") from error
    if problem := _problem(record):
        raise ValueError(f"{place} is damaged ({problem}); remove that line")
    return record


def _problem(record: Any) -> str:
    """Returns what a record lacks that every reader of it needs; "" if it lacks nothing."""
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return "it has no step"
    if not isinstance(record.get("phase"), str):
        return "it has no phase"
    needed: list[tuple[dict, str, tuple]] = [(record, "it", _NUMBERS)]
    for part in ("val", "base_rate", SAMPLE):
        values = record.get(part, None if part != SAMPLE else {})
        if not isinstance(values, dict):
            return f"it has no {part}"
        if values:  # without validation images, they are empty
            best = (record["best_by"],) if part == "val" and "best_by" in record else ()
            needed.append((values, part, ("mAP", "loss", *best)))
    for values, part, names in needed:
        for name in names:
            if not isinstance(values.get(name), int | float):
                return f"{part} has no number {name}"
    return ""


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"
