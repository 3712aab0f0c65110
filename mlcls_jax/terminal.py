"""What a person sees: header, tables, progress bar, one line per evaluation."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

# Colour only on a terminal is rich's default; class names may hold [brackets].
console = Console(highlight=False, soft_wrap=True, markup=False)

REFRESH_SECONDS = 0.1


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
        """Pictures finished since `begin`, per second; 0 before the first."""
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
        task, due = bar.add_task(title, total=meter.total, speed=""), 0.0

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
    console.print(Text.assemble(("warning:", "yellow"), " ", message))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A small table; the first column to the left, the others to the right."""
    table = Table(title=Text(title) if title else None, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def hms(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
