"""What a person sees: header, tables, progress bar, one line per evaluation.

Names of files and classes are anybody's text.  On a terminal some characters are commands: to
move the cursor, set the title, or show a name in another order than it has.  Here they are shown,
not sent.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

REFRESH_SECONDS = 0.1
# Control characters, line and paragraph ends, those that turn the direction of text
# (unicode.org/reports/tr9), and the halves of characters that stand for bytes that are no UTF-8.
_COMMANDS = (
    r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
)
_ALL, _WITHIN_LINES = re.compile(f"[{_COMMANDS}]"), re.compile(f"(?!\n)[{_COMMANDS}]")


def escaped(text: str) -> str:
    """The text on one line, what a terminal would obey as Python escapes it: `\\x1b`, `\\n`."""
    return _ALL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class _Console(Console):
    """Sends no command that is in what it is given to print; line ends stay."""

    def print(self, *objects: Any, **options: Any) -> None:
        lines = (_WITHIN_LINES.sub(_escape, o) if isinstance(o, str) else o for o in objects)
        super().print(*lines, **options)


# Colour only on a terminal is rich's default; class names may hold [brackets].
console = _Console(highlight=False, soft_wrap=True, markup=False)


class Meter:
    """Counts steps as they finish; its rate and ETA know nothing of compilation.

    The clock starts with `begin`, which is called when the program is compiled and the first
    batch is there.
    """

    def __init__(self, total_steps: int, batch_size: int):
        self.total, self.batch_size = total_steps, batch_size
        self.done, self.started = 0, time.perf_counter()

    def begin(self) -> None:
        """Starts the clock."""
        self.started = time.perf_counter()

    def advance(self, steps: int = 1) -> None:
        """Notes that steps have finished on the devices."""
        self.done += steps

    @property
    def seconds(self) -> float:
        """Since `begin`."""
        return time.perf_counter() - self.started

    @property
    def images_per_second(self) -> float:
        """Images finished since `begin`, per second; 0 before the first."""
        return self.done * self.batch_size / max(self.seconds, 1e-9)

    @property
    def eta(self) -> float | None:
        """Seconds to the end at this rate; None before the first step."""
        return self.seconds / self.done * (self.total - self.done) if self.done else None


@contextmanager
def progress_bar(title: str, meter: Meter, visible: bool = True) -> Iterator[Callable[[], None]]:
    """A bar with images/s and ETA on a terminal, nothing elsewhere.

    Yields `refresh()`, which may be called at every step: it acts ten times a second at most.
    """
    if not (visible and console.is_terminal):
        yield lambda: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task, due = bar.add_task(escaped(title), total=meter.total, speed=""), 0.0

        def refresh() -> None:
            nonlocal due
            if (now := time.perf_counter()) < due:
                return
            due, eta = now + REFRESH_SECONDS, meter.eta
            speed = "" if eta is None else f"{meter.images_per_second:.1f} images/s, ETA {hms(eta)}"
            bar.update(task, completed=meter.done, speed=speed)

        yield refresh


def print_warning(message: str) -> None:
    """One line that begins with a coloured "warning:"."""
    console.print(Text.assemble(("warning:", "yellow"), " ", escaped(message)))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A small table; the first column to the left, the others to the right."""
    table = Table(
        title=Text(escaped(title)) if title else None, title_justify="left", title_style="bold"
    )
    for i, name in enumerate(columns):
        table.add_column(Text(escaped(name)), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(Text(escaped(cell)) for cell in row))
    console.print(table)


def hms(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def one_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__
