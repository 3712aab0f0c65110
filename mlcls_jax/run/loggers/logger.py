"""A logger: a program that is told the numbers of a run while it trains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"  # how a run has ended


@dataclass(frozen=True)
class LoggedImage:
    """An image for the loggers.

    Attributes:
        name: file name of the image.
        caption: what to write below it.
        jpeg: the encoded image.
    """

    name: str
    caption: str
    jpeg: bytes


class RunLogger:
    """What a logger is told; each method does nothing, and a logger overrides those it needs.

    All calls of a logger come from one thread, in order, on the first process only.
    """

    def config(self, values: dict[str, Any]) -> None:
        """Takes the fields of the config as nested dictionaries; the first call of all."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Takes numbers by name, such as {"val/mAP": 0.8}, of a step."""

    def images(self, step: int, title: str, images: Sequence[LoggedImage]) -> None:
        """Takes images of a step under a title."""

    def artifacts(self, files: Sequence[Path]) -> None:
        """Takes files of the workdir."""

    def flush(self) -> None:
        """Shows what was taken so far; called after each evaluation."""

    def end(self, state: str) -> None:
        """Takes how the run has ended: FINISHED, STOPPED or FAILED; the last call of all."""


class CalledLogger(RunLogger):
    """A logger that is a function of a step and of numbers by name."""

    def __init__(self, function: Callable[[int, dict[str, float]], object]):
        self._function = function

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Calls the function with a dictionary of its own."""
        self._function(step, dict(values))


# Called with the step and numbers by name, such as {"val/mAP": 0.8}; or an object that takes more.
Logger = Callable[[int, dict[str, float]], object] | RunLogger


def as_logger(logger: Logger) -> RunLogger:
    """Returns the logger as an object."""
    return logger if isinstance(logger, RunLogger) else CalledLogger(logger)


@dataclass(frozen=True)
class LoggedRun:
    """A run as a logger is to show it.

    Attributes:
        project: the runs that are shown together.
        name: of the run.
        group: what the runs of the folds have in common; "" for no fold.
        kept: what the logger has kept about the run when it began; {} for a new one.
        keep: stores what a later process needs to go on in the same run.
    """

    project: str
    name: str
    group: str
    kept: dict[str, Any]
    keep: Callable[[dict[str, Any]], None]
