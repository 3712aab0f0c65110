"""The cells of a table as text, each with its row and column for error messages.

CSV files become these, and so do the files of Hugging Face `datasets`.
"""

import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlcls_jax.system.console import quoted


@dataclass(frozen=True, eq=False)
class Column:
    """The n cells below one header.

    path: the CSV file, or its address.
    name: the header, stripped.
    rows: int [n], the row of each cell in the file; the header is row 1.
    codes: int [n], the index of each cell's text in `distinct`.
    distinct: the distinct texts; some may be used by no cell.
    """

    path: Path | str
    name: str
    rows: np.ndarray
    codes: np.ndarray
    distinct: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """The n cells, exactly as written."""
        return [self.distinct[code] for code in self.codes]

    def map(self, value: Callable[[str], object]) -> np.ndarray:
        """Returns `value` of each cell as an array [n]; calls it once per distinct text."""
        return np.asarray([value(text) for text in self.distinct])[self.codes]

    def where(self, *cells: int) -> str:
        """Returns where the cells are, such as "rows 2 and 4, column 'filename'"."""
        rows = " and ".join(str(self.rows[i]) for i in cells)
        return f"row{'s' * (len(cells) > 1)} {rows}, column {self.name!r}"

    def error(self, i: int, problem: str) -> ValueError:
        """Returns a ValueError with file, row and column of cell `i`, and the problem."""
        return ValueError(f"{self.path}: {self.where(i)}: {problem}")

    def check_unique(self, keys: Iterable[Hashable], problem: Callable[[int], str]) -> None:
        """Raises a ValueError at the first repeated key.

        Args:
          keys: n keys, one per cell.
          problem: returns the end of the message for cell i, which repeats an earlier key.

        Raises:
          ValueError: names the rows of both cells.
        """
        first: dict[Hashable, int] = {}
        for i, key in enumerate(keys):
            before = first.setdefault(key, i)
            if before != i:
                raise ValueError(f"{self.path}: {self.where(before, i)}: {problem(i)}")


@dataclass(frozen=True, eq=False)
class CsvCells:
    """A CSV file as text, without its empty rows.

    path: the CSV file, or its address.
    columns: columns by name, in the file's order.
    notes: how the file was understood, as parts of a line.
    """

    path: Path | str
    columns: dict[str, Column]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).rows)

    def column(self, name: str, advice: str) -> Column:
        """Returns the column with this name.

        Raises:
          ValueError: there is no such column; lists the columns and ends with `advice`.
        """
        if name in self.columns:
            return self.columns[name]
        header = list(self.columns)
        if len(header) == 1 and (mark := re.search(r"[;\t|]", header[0])):
            advice = f"its cells are separated by {mark[0]!r}; save the file with commas"
        found = quoted(header)
        raise ValueError(f"{self.path}: no column {name!r}; its columns are {found}; {advice}")


def plain_name(name: str) -> str:
    """Returns the name of a column in lower case, with underscores between its words."""
    return re.sub(r"[\s\-./]+", "_", name.strip()).lower()


def listed(names: Iterable[str]) -> str:
    """Returns names as data.label_columns and data.ignore_columns take them.

    >>> listed(["Age", "red, ripe"])
    'Age,"red, ripe"'
    """
    return ",".join(f'"{name}"' if "," in name else name for name in names)
