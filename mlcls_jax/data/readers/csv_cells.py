"""CSV files read as text, with the row and column of every cell.

Nothing is interpreted here: no numbers, dates or missing values. Only the escapes of `csv_writing`,
with which this package writes text, are removed.
"""

import csv as csv_module
import re
from collections.abc import Container
from pathlib import Path

import numpy as np
import pandas as pd

from mlcls_jax.data.readers.cells import Column, CsvCells
from mlcls_jax.data.readers.csv_format import (
    PLAIN,
    CsvFormat,
    as_commas,
    records,
    without_surplus,
)
from mlcls_jax.data.readers.csv_writing import unescaped_cell
from mlcls_jax.system.console import one_line

MAX_COLUMNS = 30_000  # no known data set has more classes; reading a column takes a millisecond
MAX_LINE = 1 << 24  # bytes
_BLOCK = 1 << 20
_RAGGED = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
_UNNAMED = re.compile(r"Unnamed: \d+")  # pandas' name of a column without one


def read_csv(path: str | Path, layout: CsvFormat = PLAIN, *, named_only: bool = False) -> CsvCells:
    """Reads a table as text.

    Columns without a name (or that pandas has called `Unnamed: 0`) are left out if they are empty
    or count the rows.

    Args:
      path: the file.
      layout: how it is written; by default UTF-8 with commas.
      named_only: whether to leave out all columns without a name, rather than to refuse them.

    Raises:
      ValueError: the file does not exist, has another encoding, has a line or a header that is far
        too long, rows of different lengths, or a column without a name or with a repeated one. The
        message is one line with file and row.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        problem = "is a folder, not a CSV file" if path.is_dir() else "no such CSV file"
        raise ValueError(f"{path}: {problem}; check the path")
    _check_size(path, layout)
    frame, layout = _read_frame(path, layout)
    cells = [column.cat for _, column in frame.items()]
    header = [_name(column.categories[column.codes.iloc[0]]) for column in cells]
    codes = [column.codes.to_numpy() for column in cells]
    filled = [np.array([bool(text.strip()) for text in column.categories]) for column in cells]
    kept = np.logical_or.reduce([has[code] for has, code in zip(filled, codes, strict=True)])
    repeats = np.logical_and.reduce([code == code[0] for code in codes]) & kept
    kept &= ~repeats  # the header, and headers of files that were joined
    rows = np.flatnonzero(kept) + 1 + layout.lines_before
    columns = [
        Column(path, name, rows, *_unescaped(code[kept], column.categories.tolist()))
        for name, code, column in zip(header, codes, cells, strict=True)
    ]
    _check_short_rows(path, columns, layout)
    unused = dict.fromkeys(
        i for i, column in enumerate(columns) if _is_unused(column, i, named_only)
    )
    _check_header(path, header, unused)
    named = {column.name: column for i, column in enumerate(columns) if i not in unused}
    notes = [*layout.notes, *(_unused_note(columns[i], i) for i in unused)]
    if again := np.flatnonzero(repeats)[1:].tolist():
        first = again[0] + 1 + layout.lines_before
        notes.append(f"rows that repeat the header, the first in row {first}, are not used")
    return CsvCells(path, named, tuple(notes))


def _name(header: str) -> str:
    """Returns the name of a column from its header."""
    return unescaped_cell(header.strip()).strip()


def _unescaped(codes: np.ndarray, distinct: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns codes and distinct texts of a column, without the escapes in its texts."""
    texts = list(map(unescaped_cell, distinct))
    if texts == distinct:
        return codes, tuple(distinct)
    code = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return np.array([code[text] for text in texts])[codes], tuple(code)


def _is_unused(column: Column, position: int, named_only: bool) -> bool:
    """Whether a column without a name can be left out."""
    if column.name and not _UNNAMED.fullmatch(column.name):
        return False
    if named_only and not column.name:
        return True
    used = {column.distinct[code].strip() for code in np.unique(column.codes)}
    if used <= {""}:
        return True
    if len(used) < len(column.rows) or not all(text.isdecimal() for text in used):
        return False
    numbers = sorted(map(int, used))
    counts = any(numbers == list(range(k, k + len(numbers))) for k in (0, 1))
    return (counts and position == 0) or len(numbers) > 2  # two rows could be labels


def _unused_note(column: Column, position: int) -> str:
    name = f"column {column.name!r}" if column.name else f"column {position + 1}, without a name,"
    return f"{name} is not used"


def _check_size(path: Path, layout: CsvFormat) -> None:
    """Refuses files that pandas would read for hours, with all memory, or only in part."""
    line = 0  # bytes since the start of the line
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                if block.startswith(b"PK\3\4"):
                    raise ValueError(
                        f"{path}: is a spreadsheet or an archive, not a CSV file; save it as CSV"
                    )
                if b"\0" in block and layout.encoding.startswith("utf-8"):
                    raise ValueError(
                        f"{path}: contains NUL bytes, so it is not text; save it as UTF-8"
                    )
                end = max(block.rfind(b"\n"), block.rfind(b"\r"))
                line = len(block) - end - 1 if end >= 0 else line + len(block)
                if line > MAX_LINE:
                    raise ValueError(
                        f"{path}: has a line of more than {MAX_LINE:,} bytes; check that it is a "
                        "CSV file"
                    )
        width = len(next(records(path, layout), []))
    except (csv_module.Error, UnicodeDecodeError):
        return  # an unclosed quotation mark, or another encoding: reported with its row later
    except OSError as error:
        raise ValueError(f"{path}: {_parser_message(error, layout)}") from error
    if width > MAX_COLUMNS:
        raise ValueError(
            f"{path}: row 1 has {width:,} columns, more than the limit of {MAX_COLUMNS:,}; check "
            "that it has one column per class"
        )


def _read_frame(path: Path, layout: CsvFormat) -> tuple[pd.DataFrame, CsvFormat]:
    """Categorical columns of all rows, header and empty rows included, so row numbers are right.

    The format is another one if rows have empty cells that the header lacks.
    """
    try:
        # header=None, because pandas would rename repeated column names. Read as str first, because
        # dtype="category" would turn a class called 007 into the number 7.
        frame = pd.read_csv(
            path if layout == PLAIN else as_commas(path, layout),
            header=None,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            encoding="utf-8-sig",
            skip_blank_lines=False,
            low_memory=False,
        )
        return frame.astype("category"), layout
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(
            f"{path}: no header in row 1, because the file or its first line is empty; "
            "write the column names there"
        ) from error
    except (pd.errors.ParserError, csv_module.Error, OSError) as error:
        if _RAGGED.search(str(error)) and not layout.width:
            trimmed = without_surplus(path, layout)
            if trimmed.width:
                return _read_frame(path, trimmed)
        raise ValueError(f"{path}: {_parser_message(error, layout)}") from error


def _parser_message(error: Exception, layout: CsvFormat) -> str:
    if ragged := _RAGGED.search(str(error)):
        row = int(ragged[2]) + layout.lines_before
        return (
            f"row {row} has {ragged[3]} cells, but the header has {ragged[1]}; quote cells that "
            f"contain {layout.separators}"
        )
    opened = re.search(r"EOF inside string starting at row (\d+)", str(error))
    if opened:
        return f"row {int(opened[1]) + 1} opens a quotation mark that is never closed; close it"
    return f"cannot be read ({one_line(error)}); check that it is a CSV file"


def _check_header(path: Path, header: list[str], unused: Container[int]) -> None:
    first: dict[str, int] = {}
    for i, name in enumerate(header):
        if i in unused:
            continue
        if not name:
            raise ValueError(
                f"{path}: row 1, column {i + 1} of {len(header)} has no name; "
                "write the name of its class, or remove the column"
            )
        if first.setdefault(name, i) != i:
            raise ValueError(
                f"{path}: row 1, columns {first[name] + 1} and {i + 1} have the same name "
                f"{name!r}; rename or remove one"
            )


def _check_short_rows(path: Path, columns: list[Column], layout: CsvFormat) -> None:
    """Refuses rows that end early, which pandas fills with empty cells."""
    last, width = columns[-1], len(columns)
    if not last.map(lambda text: text == "").any():
        return
    kept = set(last.rows.tolist())
    try:
        for row, record in enumerate(records(path, layout), start=1 + layout.lines_before):
            if row in kept and len(record) < width:
                raise ValueError(
                    f"{path}: row {row} has {len(record)} cells, but the header has {width}; "
                    f"leave unknown cells empty, but keep their {layout.separators}"
                )
    except csv_module.Error as error:
        raise ValueError(f"{path}: {_parser_message(error, layout)}") from error
