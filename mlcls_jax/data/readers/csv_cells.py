"""CSV files as text: every cell with its place in the file, and nothing interpreted.

And the other way: cells that a spreadsheet takes for text as well.
"""

import csv as csv_module
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

MAX_COLUMNS = 30_000  # more than any data set has classes; each costs a millisecond
MAX_LINE = 1 << 24  # bytes
_BLOCK = 1 << 20
# A cell that begins so is a formula to a spreadsheet; the last four are full-width letters
# (owasp.org/www-community/attacks/CSV_Injection).
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")


@dataclass(frozen=True, eq=False)
class Column:
    """The n cells below one header.

    path: of the CSV file. name: the header, stripped. rows: int [n], each cell's row in the file,
    where the header is row 1. codes: int [n], each cell's text as an index into `distinct`, where
    each text stands once and some may be of no cell.
    """

    path: Path
    name: str
    rows: np.ndarray
    codes: np.ndarray
    distinct: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """n cells exactly as written."""
        return [self.distinct[code] for code in self.codes]

    def map(self, value: Callable[[str], object]) -> np.ndarray:
        """[n]: `value` of each cell, asked once per distinct text."""
        return np.asarray([value(text) for text in self.distinct])[self.codes]

    def where(self, *cells: int) -> str:
        """The cells' place in the file."""
        rows = " and ".join(str(self.rows[i]) for i in cells)
        return f"row{'s' * (len(cells) > 1)} {rows}, column {self.name!r}"

    def error(self, i: int, problem: str) -> ValueError:
        """About cell `i`: file, row, column and the problem."""
        return ValueError(f"{self.path}: {self.where(i)}: {problem}")

    def check_unique(self, keys: Iterable[Hashable], problem: Callable[[int], str]) -> None:
        """ValueError with both rows and `problem(i)` for the first cell i whose key is not new.

        keys: n, one per cell.
        """
        first: dict[Hashable, int] = {}
        for i, key in enumerate(keys):
            before = first.setdefault(key, i)
            if before != i:
                raise ValueError(f"{self.path}: {self.where(before, i)}: {problem(i)}")


@dataclass(frozen=True, eq=False)
class CsvCells:
    """A CSV file as text, without the rows that are empty from end to end.

    columns: by name, in the file's order.
    """

    path: Path
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).rows)

    def column(self, name: str, advice: str) -> Column:
        """The column of this name; ValueError that lists the columns and ends in `advice`."""
        if name in self.columns:
            return self.columns[name]
        header = list(self.columns)
        if len(header) == 1 and (mark := re.search(r"[;\t|]", header[0])):
            advice = f"the cells are separated by {mark[0]!r}, save the file with commas instead"
        found = quoted(header)
        raise ValueError(f"{self.path}: no column {name!r} among its columns {found}; {advice}")


def quoted(names: Iterable[str], limit: int = 10) -> str:
    """`'a', 'b' and 3 more`, for messages: escaped, hence always one line."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def for_spreadsheets(text: str) -> str:
    """A name as a cell of a file that people open: with an apostrophe before what would be a
    formula, and `\\udc80` to `\\udcff` for the bytes of a file name that are no UTF-8."""
    text = text.encode(errors="backslashreplace").decode()
    return f"'{text}" if _FORMULA.match(text) else text


def quoting(texts: Iterable[str]) -> Literal[0, 1]:
    """How to write cells: the csv module does not see that a carriage return needs quotes."""
    has_return = any("\r" in text for text in texts)
    return csv_module.QUOTE_ALL if has_return else csv_module.QUOTE_MINIMAL


def read_csv(path: str | Path) -> CsvCells:
    """Reads a comma-separated UTF-8 file as text.

    Raises:
      ValueError: no such file, not UTF-8, zero bytes, a line or a number of columns that no table
        has, ragged rows, or a column without a name or with the name of another; one line with
        file and row.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, not a CSV file" if path.is_dir() else "no such CSV file"
        raise ValueError(f"{path}: {what}; check the path")
    _check_size(path)
    cells = [column.cat for _, column in _read_frame(path).items()]
    header = [column.categories[column.codes.iloc[0]].strip() for column in cells]
    _check_header(path, header)
    codes = [column.codes.to_numpy() for column in cells]
    filled = [np.array([bool(text.strip()) for text in column.categories]) for column in cells]
    kept = np.logical_or.reduce([has[code] for has, code in zip(filled, codes, strict=True)])
    kept[0] = False  # the header
    rows = np.flatnonzero(kept) + 1
    columns = {
        name: Column(path, name, rows, code[kept], tuple(column.categories))
        for name, code, column in zip(header, codes, cells, strict=True)
    }
    _check_short_rows(path, columns)
    return CsvCells(path, columns)


def _check_size(path: Path) -> None:
    """ValueError for what pandas would take hours or all memory for, or cut off without a word."""
    line = 0  # bytes since its begin
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                if b"\0" in block:
                    raise ValueError(f"{path}: holds zero bytes, no text; save it as UTF-8")
                end = max(block.rfind(b"\n"), block.rfind(b"\r"))
                line = len(block) - end - 1 if end >= 0 else line + len(block)
                if line > MAX_LINE:
                    raise ValueError(
                        f"{path}: has a line of more than {MAX_LINE:,} bytes; check that it is a "
                        "CSV file"
                    )
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            width = len(next(csv_module.reader(file), []))
    except csv_module.Error:
        return  # a quotation that does not end: pandas says where
    except OSError as error:
        raise ValueError(f"{path}: {_parser_message(error)}") from error
    if width > MAX_COLUMNS:
        raise ValueError(
            f"{path}: row 1 names {width:,} columns, more than {MAX_COLUMNS:,}; check that it has "
            "one column per class"
        )


def _read_frame(path: Path) -> pd.DataFrame:
    """Categorical columns of all records, header and empty ones too, so that row numbers hold."""
    try:
        # Without a header pandas leaves equal column names alone. Read as str and only then made
        # categorical: asked for categories it would turn a class called 007 into the number 7.
        return pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            encoding="utf-8-sig",
            skip_blank_lines=False,
            low_memory=False,
        ).astype("category")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(
            f"{path}: no header in row 1, the file or its first line is empty; "
            "put the column names there"
        ) from error
    except (pd.errors.ParserError, OSError) as error:
        raise ValueError(f"{path}: {_parser_message(error)}") from error


def _parser_message(error: Exception) -> str:
    ragged = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
    if ragged:
        return (
            f"row {ragged[2]} has {ragged[3]} cells, the header {ragged[1]}; "
            "quote cells that contain a comma"
        )
    opened = re.search(r"EOF inside string starting at row (\d+)", str(error))
    if opened:
        return f"row {int(opened[1]) + 1} opens a quotation that never ends; close it"
    return f"cannot be read ({' '.join(str(error).split())}); check that it is a CSV file"


def _check_header(path: Path, header: list[str]) -> None:
    first: dict[str, int] = {}
    for i, name in enumerate(header):
        if not name:
            raise ValueError(
                f"{path}: row 1, column {i + 1} of {len(header)} has no name; "
                "name its class or remove the column"
            )
        if first.setdefault(name, i) != i:
            raise ValueError(
                f"{path}: row 1, columns {first[name] + 1} and {i + 1} have the same name "
                f"{name!r}; rename or remove one"
            )


def _check_short_rows(path: Path, columns: dict[str, Column]) -> None:
    """pandas fills a row that ends early with empty cells; only then is it worth a second look."""
    *_, last = columns.values()
    if not last.map(lambda text: text == "").any():
        return
    width, wanted = len(columns), set(last.rows.tolist())
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            for row, record in enumerate(csv_module.reader(lines), start=1):
                if row in wanted and len(record) < width:
                    raise ValueError(
                        f"{path}: row {row} has {len(record)} cells, the header {width}; "
                        "leave unknown cells empty but keep their commas"
                    )
    except csv_module.Error as error:
        raise ValueError(f"{path}: {_parser_message(error)}") from error
