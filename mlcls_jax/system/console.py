"""Terminal output: tables, a progress bar, warnings, and values formatted as text.

Names of files and classes can hold any text.  Some characters are commands to a terminal: they move
the cursor, set the title, or show a name in another order.  They are printed escaped.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

REFRESH_SECONDS = 0.1
_WIDE, _NARROW = 40, 12  # characters of a bar, without and with much text beside it
_ROOM = 100  # characters of a terminal from which both fit
# What a narrow terminal shows in place of words, in this order.
_SHORTER = ((" of ", "/"), (" epoch ", " "), (", over ", ", >"), (" left", ""), ("best ", ""))
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
# Control characters, line and paragraph ends, changes of the direction of text
# (unicode.org/reports/tr9), and the surrogates that stand for bytes that are not UTF-8.
_COMMANDS = (
    r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
)
_ALL, _WITHIN_LINES = re.compile(f"[{_COMMANDS}]"), re.compile(f"(?!\n)[{_COMMANDS}]")
_NUMBER = re.compile(r"[-+−–]?\d|[-–]?$")  # a cell that begins with a number, or has none


_shown_as: dict[str, str] = {}


def show_as(path: str, address: str) -> None:
    """Shows a path and what is below it as an address in all later messages."""
    _shown_as[path] = address


def with_addresses(text: str) -> str:
    """Returns the text with paths as the addresses that `show_as` has set for them."""
    for path, address in _shown_as.items():
        text = text.replace(path, address)
    return text


def escaped(text: str) -> str:
    """Returns the text on one line, with terminal commands escaped as in Python: `\\x1b`, `\\n`."""
    return _ALL.sub(_escape, with_addresses(text))


def quoted(names: Iterable[str], limit: int = 10) -> str:
    """Returns names for a message, such as `'a', 'b' and 3 more`.

    Names are escaped, so the result is always one line.
    """
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + rest


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _shown(text: str) -> str:
    return _WITHIN_LINES.sub(_escape, with_addresses(text))


class _Console(Console):
    """A console that escapes terminal commands in the text that it prints, except line ends.

    On a terminal, text is wrapped between words.  Text with options stays one line, because a
    command with a line end cannot be pasted into a shell; so does all text in a file.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        is_whole = not self.is_terminal or any("--" in str(o) for o in objects)
        shown = (_shown(o) if isinstance(o, str) else o for o in objects)
        wrapping: dict[str, Any] = {"soft_wrap": True} if is_whole else {"overflow": "fold"}
        super().print(*shown, **wrapping | options)


# Class names may contain [brackets] and be written :like_this:.
console = _Console(highlight=False, markup=False, emoji=False)


class Meter:
    """Counter of finished steps, with their rate and the remaining time.

    The clock starts with `begin`, after compilation and once the first batch is available, so that
    neither is part of the rate.
    """

    def __init__(self, total_steps: int, batch_size: int):
        self.total, self.batch_size = total_steps, batch_size
        self.done, self.started = 0, time.perf_counter()

    def begin(self) -> None:
        """Starts the clock."""
        self.started = time.perf_counter()

    def advance(self, steps: int = 1) -> None:
        """Counts steps that have finished on the devices."""
        self.done += steps

    @property
    def seconds(self) -> float:
        """Seconds since `begin`."""
        return time.perf_counter() - self.started

    @property
    def images_per_second(self) -> float:
        """Images per second since `begin`; 0 before the first step."""
        return self.done * self.batch_size / max(self.seconds, 1e-9)

    @property
    def eta(self) -> float | None:
        """Remaining seconds at the current rate; None before the first step."""
        return self.seconds / self.done * (self.total - self.done) if self.done else None


@contextmanager
def progress_bar(
    title: str, meter: Meter, visible: bool = True, detail: Callable[[], str] | None = None
) -> Iterator[Callable[[], None]]:
    """Shows a bar with images/s and ETA within the block, on terminals only.

    Args:
        title: text to the left of the bar.
        meter: what to show; the caller advances it.
        visible: whether to show the bar at all.
        detail: called when the bar is drawn; what to show after images/s instead of the ETA.

    Yields:
        `refresh()`, to be called at every step; it redraws at most every REFRESH_SECONDS.
    """
    if not (visible and console.is_terminal):
        yield lambda: None
        return
    bar_columns = (BarColumn(_WIDE if detail is None else _NARROW), MofNCompleteColumn())
    is_narrow = detail is not None and console.width < _ROOM
    columns = (
        TextColumn("{task.description}", markup=False),
        *(() if is_narrow else bar_columns),
        TextColumn("{task.fields[speed]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        title = escaped(title)
        task, due = bar.add_task(title, total=meter.total, speed=""), 0.0

        def refresh() -> None:
            nonlocal due
            if (now := time.perf_counter()) < due:
                return
            due, eta, speed = now + REFRESH_SECONDS, meter.eta, ""
            if eta is not None:
                rest = f", ETA {hms(eta)}" if detail is None else detail()
                speed = f"{meter.images_per_second:.1f} images/s{rest}"
            if is_narrow and speed:
                line = shortened(f"{title}, {speed}", console.width - 2)
                bar.update(task, completed=meter.done, description=line, speed="")
            else:
                bar.update(task, completed=meter.done, speed=speed)

        yield refresh


def shortened(line: str, width: int) -> str:
    """Returns the text of a progress bar with as many words left out as the width asks for.

    >>> shortened("head epoch 10 of 18, 12.3 images/s, best mAP 0.419, over 0:10 left", 60)
    'head 10/18, 12.3 images/s, best mAP 0.419, over 0:10 left'

    Args:
        line: the text.
        width: of the terminal in characters.
    """
    for words, fewer in _SHORTER:
        if len(line) <= width:
            break
        line = line.replace(words, fewer, 1)
    return line


def print_warning(message: str) -> None:
    """Prints the message on one line after a coloured "warning:"."""
    console.print(Text.assemble(("warning:", "yellow"), " ", escaped(message)))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table; columns of numbers are right-aligned, except the first one."""
    table = Table(
        title=Text(escaped(title)) if title else None, title_justify="left", title_style="bold"
    )
    for i, name in enumerate(columns):
        is_numeric = i > 0 and all(_NUMBER.match(row[i]) for row in rows)
        justify = "right" if is_numeric else "left"
        table.add_column(Text(escaped(name)), justify=justify, overflow="fold")  # a path is whole
    for row in rows:
        table.add_row(*(Text(escaped(cell)) for cell in row))
    console.print(table)


def hms(seconds: float) -> str:
    """Returns a duration as h:mm:ss, or as m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_ms(seconds: float) -> str:
    """Returns a duration in milliseconds, without its unit, to four significant digits."""
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f}" if milliseconds >= 1000 else f"{milliseconds:.4g}"


def format_bytes(count: float) -> str:
    """Returns a size in kB, MB or GB (powers of 1000) with one decimal, such as "3.9 kB"."""
    unit, scale = next(((unit, scale) for unit, scale in _UNITS if count >= scale), _UNITS[-1])
    return f"{count / scale:.1f} {unit}"


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Returns the message of an error on one line, or the name of its class if it has none.

    Args:
        error: any error.
        limit: characters at most; None does not truncate.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split())[:limit] or type(error).__name__
