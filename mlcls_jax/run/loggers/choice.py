"""The loggers that the section log of the config names."""

import importlib
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlcls_jax.config.log_checks import names_of
from mlcls_jax.config.schema import TENSORBOARD, Log
from mlcls_jax.run.checkpoint_integrity import EVENTS
from mlcls_jax.run.loggers.background import BackgroundLogger
from mlcls_jax.run.loggers.logger import LoggedRun, RunLogger
from mlcls_jax.run.loggers.tensorboard import Events
from mlcls_jax.run.workdir import LOGGER_RUNS
from mlcls_jax.system.bucket import address_of
from mlcls_jax.system.files import write_text


def loggers_of(log: Log, workdir: Path, step: int, fold: int | None) -> list[RunLogger]:
    """Returns the loggers of a run, which start when they are told the config.

    Args:
        log: section of the config.
        workdir: folder of the run.
        step: the restored step; 0 for a new run, which the loggers show as another one.
        fold: number of the fold, if the run is one of several in folders of one workdir; -1 for the
            run on the images of all folds; None for any other run.
    """
    path = Path(address_of(workdir.absolute()))
    base = log.run_name or (path if fold is None or fold < 0 else path.parent).name
    name = base if fold is None or fold < 0 else f"{base}-{path.name}"
    group = "" if fold is None else base
    kept = Kept(workdir / LOGGER_RUNS, continued=step > 0)

    def one(logger: str) -> RunLogger:
        if logger == TENSORBOARD:
            return Events(workdir / EVENTS, step)
        start = importlib.import_module(f"mlcls_jax.run.loggers.{logger}_logger").start
        run = LoggedRun(log.project, name, group, kept.of(logger), kept.keeper(logger))
        return BackgroundLogger(logger, start, run)

    return [one(logger) for logger in names_of(log.to)]


class Kept:
    """What the loggers keep about their runs, in a JSON file, written from several threads."""

    def __init__(self, path: Path, continued: bool):
        """Reads the file of a run that continues; a damaged one counts as empty."""
        self._path, self._lock = path, threading.Lock()
        self._values: dict[str, dict[str, Any]] = {}
        if continued:
            with suppress(OSError, ValueError):
                read = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(read, dict):
                    self._values = {k: v for k, v in read.items() if isinstance(v, dict)}

    def of(self, name: str) -> dict[str, Any]:
        """Returns what a logger has kept."""
        return dict(self._values.get(name, {}))

    def keeper(self, name: str) -> Callable[[dict[str, Any]], None]:
        """Returns a function that keeps values of a logger; a full disk loses them."""

        def keep(values: dict[str, Any]) -> None:
            with self._lock, suppress(ValueError):
                self._values[name] = self._values.get(name, {}) | values
                write_text(self._path, json.dumps(self._values, indent=2) + "\n")

        return keep
