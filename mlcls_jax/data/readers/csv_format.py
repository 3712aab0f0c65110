"""Finds out how a table is written as text: its encoding, and what separates its cells.

`find_format` is for label files, which come from many programs. Files that this package writes are
always UTF-8 with commas.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_SAMPLE = 1 << 17  # bytes that decide about separators
_RECORDS = 100
_TITLES = 10  # lines above a header
_BLOCK = 1 << 20
_SEPARATORS = (",", ";", "\t", "|", " ")
_NAMES = {";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "spaces", ",": "commas"}
_ENCODINGS = {"cp1252": "Windows-1252", "utf-16": "UTF-16", "utf-32": "UTF-32"}
_MARKS = (  # byte order marks; that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What makes a text in another encoding than Windows-1252: three such letters in a row (Cyrillic,
# Chinese), signs that no name has, and capital letters within a word.
_NOT_LATIN = re.compile(
    r"[^\0-\x7f]{3}|[^\0-\x7fÀ-ÖØ-öø-ÿŒœŠšŽžŸ€‘’“”–—…°«»·©®™ß\xa0]|[a-z][À-ÖØ-ÞŽŒŠ]"
)


@dataclass(frozen=True)
class CsvFormat:
    """How a table is written.

    encoding: name of the encoding.
    separator: one character; a space stands for one or more spaces.
    lines_before: number of lines above the header.
    first_column: name of the first column if the header lacks it; "" if it does not.
    width: number of cells of the header if rows have more, all of them empty; 0 if they do not.
    """

    encoding: str = "utf-8-sig"
    separator: str = ","
    lines_before: int = 0
    first_column: str = ""
    width: int = 0

    @property
    def separators(self) -> str:
        """What separates the cells, in words."""
        return _NAMES[self.separator]

    @property
    def notes(self) -> tuple[str, ...]:
        """How the file was understood, as parts of a line; none for UTF-8 with commas."""
        notes = []
        if not self.encoding.startswith("utf-8"):
            base = self.encoding.removesuffix("-le").removesuffix("-be")
            notes.append(f"its text is {_ENCODINGS[base]}")
        if self.separator != ",":
            notes.append(f"its cells are separated by {self.separators}")
        if self.lines_before:
            notes.append(f"its header is in row {self.lines_before + 1}")
        if self.first_column:
            notes.append(f"the first column has no header, and is {self.first_column!r}")
        if self.width:
            notes.append("empty cells after its last column are not used")
        return tuple(notes)


PLAIN = CsvFormat()


def records(path: Path, layout: CsvFormat) -> Iterator[list[str]]:
    """Yields the cells of the header and of each row below it.

    Args:
      path: the file.
      layout: how it is written.

    Raises:
      OSError: it cannot be read.
      UnicodeDecodeError: it has another encoding.
      csv.Error: it is no CSV file.
    """
    errors = "replace" if layout == PLAIN else "strict"  # pandas reports those of UTF-8
    with open(path, encoding=layout.encoding, errors=errors, newline="") as file:
        for _ in range(layout.lines_before):
            next(file, None)
        found = _parsed(file, layout.separator, strict=layout != PLAIN)
        if layout.first_column:
            yield [layout.first_column, *next(found, [])]
        for record in found:
            yield record[: layout.width] if layout.width else record


def without_surplus(path: Path, layout: CsvFormat) -> CsvFormat:
    """Returns the format of a file whose rows have empty cells after those of the header.

    Args:
      path: the file.
      layout: how it is written; returned unchanged if the surplus is not empty, or if a cell is
        too long to be read.
    """
    rows = records(path, layout)
    try:
        width = len(next(rows, []))
        is_surplus = not any(cell.strip() for row in rows for cell in row[width:])
    except csv.Error:
        return layout
    return replace(layout, width=width) if is_surplus else layout


def as_commas(path: Path, layout: CsvFormat) -> io.StringIO:
    """Returns the text of a file with commas and quotation marks, from its header on.

    Args, Raises: see `records`.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows(records(path, layout))
    text.seek(0)
    return text


def find_format(path: Path, column: str) -> CsvFormat:
    """Returns how a table is written.

    The header must have one of the columns by name, so the separator between that name and the
    next one is the separator of the table.

    Args:
      path: a file; one that cannot be read has the format of this package, and is reported later.
      column: the name of a column, such as that of file names.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_SAMPLE)
        encoding = _encoding(path, start)
    except OSError:
        return PLAIN
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(start)
    lines = text.splitlines(keepends=True)
    if len(start) == _SAMPLE:
        del lines[-1:]  # it may be cut
    return (
        _with_first_line(encoding, lines, column)
        or _with_title(encoding, lines, column)
        or CsvFormat(encoding, _separator(lines, column))
    )


def _with_first_line(encoding: str, lines: list[str], column: str) -> CsvFormat | None:
    """The format of a file whose first line is a number of rows, or Excel's `sep=;`."""
    first = lines[0].strip(' \t\r\n"') if lines else ""
    if excel := re.fullmatch(r"sep=([,;|\t]?)", first):
        return CsvFormat(encoding, excel[1] or "\t", 1)
    if len(lines) < 3 or not first.strip(",;").isdecimal():
        return None
    for separator in reversed(_SEPARATORS):
        header, *widths = (len(record) for record in _sample(lines[1:], separator) if record)
        if len(set(widths)) == 1 and widths[0] > 1:
            if header == widths[0]:
                return CsvFormat(encoding, separator, 1)
            if header + 1 == widths[0]:
                return CsvFormat(encoding, separator, 1, column)
    return None


def _with_title(encoding: str, lines: list[str], column: str) -> CsvFormat | None:
    """The format of a file with empty lines, comments or a title above its header."""
    for number, line in enumerate(lines[: _TITLES + 1]):
        text = line.strip().strip(",;|")
        if not text or (text.startswith("#") and not text.startswith(column)):
            continue
        for separator in _SEPARATORS:
            header, *rows = _sample(lines[number : number + 2], separator) or [[]]
            if column in [cell.strip() for cell in header]:
                is_table = len(header) > 1 and len(header) == len(rows[0] if rows else header)
                return CsvFormat(encoding, separator, number) if number and is_table else None
        if len(next(iter(_sample([text], ",")), [])) > 1:
            return None
    return None


def _separator(lines: list[str], column: str) -> str:
    """The separator with which the header has a column; if none has it, a regular one."""
    tables = {separator: _sample(lines, separator) for separator in _SEPARATORS}
    headers = {separator: table[0] for separator, table in tables.items() if table}
    for separator, header in headers.items():
        if column in [cell.strip() for cell in header]:
            return separator
    regular = [
        separator
        for separator, header in headers.items()
        if len(header) > 1 and all(len(record) in (0, len(header)) for record in tables[separator])
    ]
    if "," in regular or len(regular) != 1:
        return ","
    return regular[0]


def _sample(lines: list[str], separator: str) -> list[list[str]]:
    """The first records of a table, as far as they can be read."""
    found = []
    try:
        for record in _parsed(lines, separator, strict=False):
            found.append(record)
            if len(found) == _RECORDS:
                break
    except csv.Error:
        pass
    return found


def _parsed(lines: Iterable[str], separator: str, strict: bool) -> Iterator[list[str]]:
    spaces = separator == " "
    source = (line.strip() + "\n" for line in lines) if spaces else lines
    return csv.reader(source, delimiter=separator, skipinitialspace=spaces, strict=strict)


def _encoding(path: Path, start: bytes) -> str:
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if b"\0" in start:  # UTF-16 without a mark: every other byte of ASCII letters
        even, odd = start[::2].count(0), start[1::2].count(0)
        if min(even, odd) == 0 and 4 * max(even, odd) > len(start):
            return "utf-16-le" if odd else "utf-16-be"
        return "utf-8-sig"
    if _is_utf8(path):
        return "utf-8-sig"
    try:
        text = path.read_bytes().decode("cp1252")
    except UnicodeDecodeError:
        return "utf-8-sig"
    return "utf-8-sig" if _NOT_LATIN.search(text) else "cp1252"


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
