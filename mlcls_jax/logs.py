"""metrics.jsonl and TensorBoard events of a run; only the first process writes."""

import json
import os
from pathlib import Path
from typing import Any

from mlcls_jax.events import Events
from mlcls_jax.files import write_text
from mlcls_jax.workdir import METRICS


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
