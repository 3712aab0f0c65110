"""Options and results of a part of check.sh.

A part names what it plans to measure, and stores each result as soon as it has it. What failed, or
did not begin in time, is stored with the reason, so that a page never shows a gap without one.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NOT_REACHED = "the part's time was over"


def options_of(description: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the options that all parts share."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("accelerator"), help="folder of the results")
    add("--limit", type=float, default=600.0, help="seconds until nothing new is begun")
    add("--rehearse", action="store_true", help="everything small, on the CPU")
    add("--csv", default="", help="labels of a data set to train on; default: the demo's")
    add("--images", default="", help="folder of its images")
    add("--only", default="", help="measure only what has this in its name, keep the rest")
    return parser.parse_args(arguments)


class Record:
    """The results of one part, kept in a JSON file.

    Attributes:
        values: results by name.
        reasons: why other planned names have none.
    """

    def __init__(self, part: str, options: argparse.Namespace):
        self.options = options
        self.path: Path = options.out / f"{part}.json"
        self.part, self.began = part, time.monotonic()
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}
        self.date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.kept: dict[str, str] = {}
        if options.only and (stored := read(options.out, part)):
            self.values, self.reasons = stored["values"], stored["not_measured"]
            self.kept = dict(self.reasons)

    @property
    def left(self) -> float:
        """Seconds until nothing new is begun."""
        return self.options.limit - (time.monotonic() - self.began)

    def plan(self, names: Iterable[str]) -> None:
        """Notes what will be measured."""
        for name in names:
            if self.options.only in name or name not in self.values | self.reasons:
                self.values.pop(name, None)
                self.reasons[name] = NOT_REACHED
        self._store()

    def measure(self, name: str, function: Callable[[], Any], least: float = 0.0) -> Any:
        """Stores what the function returns under a name, or why it returned nothing.

        Args:
            name: of the result.
            function: returns something that JSON can hold.
            least: seconds that it needs; with less left, it is not begun.

        Returns:
            The function's result; None if it failed or was not begun.
        """
        if self.options.only not in name:
            if name not in self.values and name not in self.kept:
                self.reasons[name] = "left out by --only"
            return None
        if self.left < least:
            self.reasons[name] = f"{NOT_REACHED}: {self.left:.0f} s left, {least:.0f} s needed"
            self._store()
            return None
        started = time.monotonic()
        try:
            value = function()
        except Exception as error:  # a part goes on without what failed
            traceback.print_exc()
            self.fail(name, error)
            return None
        self.store(name, value)
        seconds = time.monotonic() - started
        print(f"{name}: {json.dumps(value)[:160]} ({seconds:.1f} s)", flush=True)
        return value

    def store(self, name: str, value: Any) -> None:
        """Stores a result."""
        self.reasons.pop(name, None)
        self.values[name] = value
        self._store()

    def fail(self, name: str, error: BaseException | str) -> None:
        """Stores why there is no result."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.reasons[name] = " ".join(text.split())[:300]
        print(f"{name}: not measured: {self.reasons[name]}", file=sys.stderr, flush=True)
        self._store()

    def _store(self) -> None:
        text = json.dumps(
            {
                "part": self.part,
                "rehearsal": self.options.rehearse,
                "date": self.date,
                "seconds": round(time.monotonic() - self.began, 1),
                "values": self.values,
                "not_measured": self.reasons,
            },
            indent=1,
        )
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, self.path)


def read(folder: Path, part: str) -> dict[str, Any]:
    """Returns what a part stored; empty without a file."""
    path = folder / f"{part}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
