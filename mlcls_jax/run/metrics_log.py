"""The log of a run: metrics.jsonl, and the same numbers for loggers, on the first process only."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlcls_jax.evaluation.base_rate import SAMPLE
from mlcls_jax.run.loggers.logger import FAILED, LoggedImage, Logger, RunLogger, as_logger
from mlcls_jax.run.workdir import METRICS
from mlcls_jax.system.console import print_warning
from mlcls_jax.system.files import append, is_full, replacing, write_bytes

# A metric of val in the record of the training sample, over the classes that both have.
_OF_VAL, _OF_VAL_NAMED = "train_sample/val_mAP", "val/mAP_over_classes_of_train_sample"
UNWRITTEN = "unwritten_metrics"  # in the metadata of a checkpoint; see MetricsLog.for_metadata
RECORDS = "metrics_records"  # likewise
_NUMBERS = ("epoch", "train_loss", "images_per_second")  # of every record


class MetricsLog:
    """Writes a JSON line per evaluation, and passes the same numbers to the loggers."""

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
            loggers: one that raises an error is not called any more.
            metadata: of the restored checkpoint; see `for_metadata`.
        """
        self._unwritten: list[dict[str, Any]] = []
        self._contents = b""  # what the file holds
        self._has_begun = False
        self._loggers = list(map(as_logger, loggers))
        self._path, self._step, self._enabled = workdir / METRICS, step, enabled
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
        """Appends the record of an evaluation; its numbers also go to the loggers.

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
        numbers = {"train/loss": record["train_loss"]}
        numbers["train/images_per_second"] = record["images_per_second"]
        for part in ("val", "val_raw", "val_ema", "base_rate", "train_sample"):  # some are optional
            numbers |= {f"{part}/{key}": value for key, value in record.get(part, {}).items()}
        if _OF_VAL in numbers:
            numbers[_OF_VAL_NAMED] = numbers.pop(_OF_VAL)
        self.write_scalars(record["step"], numbers)
        self._tell(lambda logger: logger.flush())

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Passes numbers of a step to the loggers."""
        if not self._enabled:
            return
        self._step = step
        self._tell(lambda logger: logger.scalars(step, values))

    def begin(self, config: dict[str, Any]) -> None:
        """Tells the loggers the fields of the config, as nested dictionaries."""
        self._has_begun = True
        self._tell(lambda logger: logger.config(config))

    def end(
        self,
        state: str,
        files: Sequence[Path],
        images: Callable[[], Mapping[str, Sequence[LoggedImage]]],
    ) -> None:
        """Tells the loggers of a run that has begun how it has ended, and what there is to see.

        Args:
            state: FINISHED or STOPPED.
            files: of the workdir; those that do not exist are left out.
            images: returns images by title; called if a logger takes images.
        """
        if not self._has_begun:
            return
        if any(type(logger).images is not RunLogger.images for logger in self._loggers):
            for title, shown in images().items():
                self._tell(lambda logger, t=title, i=shown: logger.images(self._step, t, i))
        existing = [file for file in files if file.is_file()]
        self._tell(lambda logger: logger.artifacts(existing))
        self._end_loggers(state)

    def _end_loggers(self, state: str) -> None:
        if self._has_begun:
            self._tell(lambda logger: logger.end(state))
            self._loggers.clear()

    def _tell(self, call: Callable[[RunLogger], None]) -> None:
        """Calls each logger; one that fails is a warning, and is not called any more."""
        for logger in list(self._loggers):
            try:
                call(logger)
            except Exception as error:  # of the user's code or of a network
                self._loggers.remove(logger)
                print_warning(
                    f"a logger failed at step {self._step} ({type(error).__name__}: {error}) and "
                    "is not called any more; training continues"
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
        """Writes what is missing in metrics.jsonl; `end` ends the loggers.

        Raises:
            OSError: metrics.jsonl cannot be written.
        """
        if self._unwritten:
            try:
                self._write_lines()
            except OSError as error:
                raise OSError(self._failure(error)) from error

    def abandon(self) -> None:
        """Closes the log of a run that has failed, as far as it can be written."""
        with suppress(OSError):
            self.close()
        self._end_loggers(FAILED)


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
