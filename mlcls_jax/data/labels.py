"""Label CSVs as people have them: `filename` and one column per class -> `LabelTable`.

Every mistake that can be seen without decoding a picture is refused here, with the file, the row
and the column: found an hour into a run, or never, it costs more.
"""

import csv as csv_module
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

UNKNOWN = -1
SPLIT_COLUMN = "split"

_BAD = -2  # only while reading: a cell that is none of 1, 0 and UNKNOWN
_CELL = re.compile(r"(1|0|-1)(?:\.0+)?")
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Pictures and what is on them.

    filenames: n paths relative to `folder`, with `/` between folders on every system.
    labels: int8 [n, c] of 1 (there), 0 (not there) and UNKNOWN (-1, nobody has looked).
    classes: c names, in the order of the columns of `labels`.
    splits: "train", "val" or "test" per picture where the CSV has a split column, else None.
    """

    folder: Path
    filenames: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.filenames)

    @property
    def paths(self) -> list[str]:
        """n paths to open, `folder` included."""
        return [os.path.join(self.folder, name) for name in self.filenames]

    @property
    def positives(self) -> np.ndarray:
        """int64 [c]: pictures on which the class is known to be there."""
        return np.asarray((self.labels == 1).sum(axis=0, dtype=np.int64))

    @property
    def known(self) -> np.ndarray:
        """int64 [c]: pictures of which it is known whether the class is there."""
        return np.asarray((self.labels != UNKNOWN).sum(axis=0, dtype=np.int64))

    @property
    def frequencies(self) -> np.ndarray:
        """float64 [c]: positives / known; 0 for a class of which nothing is known."""
        return self.positives / np.maximum(self.known, 1)

    def take(self, rows: Iterable[int] | np.ndarray) -> "LabelTable":
        """The given rows, in the given order. rows: n' indices into the table."""
        rows = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            filenames=tuple(self.filenames[i] for i in rows),
            labels=self.labels[rows],
            splits=None if self.splits is None else tuple(self.splits[i] for i in rows),
        )

    def with_classes(self, classes: Sequence[str], here: str, there: str) -> "LabelTable":
        """The same table with its classes in the order of `classes`.

        here, there: what to call the owners of this table's classes and of `classes` in the
        ValueError that names the differing classes when the two aren't the same set.
        """
        check_same_classes(self.classes, classes, here, there)
        order = [self.classes.index(name) for name in classes]
        return replace(self, classes=tuple(classes), labels=self.labels[:, order])


@dataclass(frozen=True, eq=False)
class CsvCells:
    """A CSV file as text.

    header: k column names, stripped. cells: categorical columns 0..k-1, without the header and
    the rows that are empty from end to end. rows: int [n], each record's number in the file,
    where the header is row 1.
    """

    path: Path
    header: tuple[str, ...]
    cells: pd.DataFrame
    rows: np.ndarray

    def position(self, name: str, advice: str) -> int:
        """Where the column is; ValueError that lists the columns and ends in `advice`."""
        if name in self.header:
            return self.header.index(name)
        found = quoted(self.header)
        if len(self.header) == 1 and (mark := re.search(r"[;\t|]", self.header[0])):
            advice = f"the cells are separated by {mark[0]!r}, save the file with commas instead"
        raise ValueError(f"{self.path}: no column {name!r} among its columns {found}; {advice}")

    def texts(self, position: int) -> list[str]:
        """The column's n cells exactly as written."""
        return self.cells[position].astype(object).tolist()

    def lookup(self, position: int, values: list) -> np.ndarray:
        """The column's n cells, each replaced by the entry of `values` for its category."""
        return np.asarray(values)[self.cells[position].cat.codes.to_numpy()]


def quoted(names: Iterable[str], limit: int = 10) -> str:
    """`'a', 'b' and 3 more`, for messages: escaped, hence always one line."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def check_same_classes(ours: Sequence[str], theirs: Sequence[str], here: str, there: str) -> None:
    """ValueError naming the classes that only one side has, unless they are the same set."""
    only_here = [name for name in ours if name not in set(theirs)]
    only_there = [name for name in theirs if name not in set(ours)]
    parts = [f"only in {here}: {quoted(only_here)}"] if only_here else []
    parts += [f"only in {there}: {quoted(only_there)}"] if only_there else []
    if parts:
        raise ValueError(
            f"{here} and {there} must name the same classes; {'; '.join(parts)}; "
            "rename or remove these"
        )


def read_labels(
    csv: str | Path,
    images: str | Path,
    *,
    categories: str | Path | None = None,
    filename_column: str = "filename",
    split_column: str = SPLIT_COLUMN,
) -> LabelTable:
    """Reads a label CSV and checks it against the folder of pictures.

    Args:
      csv: a column of file names, one column per class, perhaps a split column. Cells are 1, 0
        (or 1.0, 0.0), and empty or -1 for unknown.
      images: the folder that the file names are relative to.
      categories: optional CSV with a column `Labels` that names the classes in their order.
      filename_column: the header of the column of file names.
      split_column: the header of the column with train, val or test. It may be absent under its
        default name only; "" means that there is none and that every other column is a class.

    Returns:
      A LabelTable in the CSV's row order.

    Raises:
      ValueError: one line that names file, row and column, what is wrong and what to do.
    """
    folder = Path(images).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{images}: no such folder of pictures; check data.images")
    table = read_csv(csv)
    name_at = table.position(
        filename_column, "set data.filename_column to the one that holds the file names"
    )
    split_at = None
    if split_column and (split_column in table.header or split_column != SPLIT_COLUMN):
        split_at = table.position(split_column, "check data.split_column")
    class_at = [i for i in range(len(table.header)) if i not in (name_at, split_at)]
    if not class_at:
        raise ValueError(
            f"{table.path}: no class columns beside {quoted(table.header)}; "
            "add one column of 0 and 1 per class"
        )
    if not len(table.rows):
        raise ValueError(f"{table.path}: no rows below the header; add one row per picture")
    classes = tuple(table.header[i] for i in class_at)
    order = _read_categories(categories) if categories else classes
    if categories:
        check_same_classes(classes, order, str(table.path), str(categories))
    filenames = _filenames(table, name_at)
    labels = _labels(table, class_at)
    splits = None if split_at is None else _splits(table, split_at)
    _check_pictures(table, filenames, folder)
    result = LabelTable(folder, filenames, labels, classes, splits)
    return result.with_classes(order, str(table.path), str(categories))


def read_csv(path: str | Path) -> CsvCells:
    """Reads a comma-separated UTF-8 file as text, nothing interpreted.

    Raises:
      ValueError: no such file, not UTF-8, ragged rows, or a column without a name or with the
        name of another; one line with file and row.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, not a CSV file" if path.is_dir() else "no such CSV file"
        raise ValueError(f"{path}: {what}; check the path")
    try:
        # Without a header pandas leaves equal column names alone. Read as str and only then made
        # categorical: asked for categories it would turn a class called 007 into the number 7.
        # Empty lines are kept so that row numbers hold.
        cells = pd.read_csv(
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
    header = tuple(cells[i].iloc[0].strip() for i in cells)
    _check_header(path, header)
    empty = np.ones(len(cells), dtype=bool)
    for i in cells:
        blank = np.array([not text.strip() for text in cells[i].cat.categories])
        empty &= blank[cells[i].cat.codes.to_numpy()]
    body = cells[~empty].iloc[1:]
    table = CsvCells(path, header, body, body.index.to_numpy() + 1)
    _check_short_rows(table)
    return table


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


def _check_header(path: Path, header: tuple[str, ...]) -> None:
    for i, name in enumerate(header):
        if not name:
            raise ValueError(
                f"{path}: row 1, column {i + 1} of {len(header)} has no name; "
                "name its class or remove the column"
            )
        if name in header[:i]:
            raise ValueError(
                f"{path}: row 1, columns {header.index(name) + 1} and {i + 1} have the same name "
                f"{name!r}; rename or remove one"
            )


def _check_short_rows(table: CsvCells) -> None:
    """pandas fills a row that ends early with empty cells; only then is it worth a second look."""
    width = len(table.header)
    last = [text == "" for text in table.cells[width - 1].cat.categories]
    if not table.lookup(width - 1, last).any():
        return
    wanted = set(table.rows.tolist())
    try:
        with open(table.path, encoding="utf-8-sig", newline="") as lines:
            for row, record in enumerate(csv_module.reader(lines), start=1):
                if row in wanted and len(record) < width:
                    raise ValueError(
                        f"{table.path}: row {row} has {len(record)} cells, the header {width}; "
                        "leave unknown cells empty but keep their commas"
                    )
    except csv_module.Error as error:
        raise ValueError(f"{table.path}: {_parser_message(error)}") from error


def _read_categories(path: str | Path) -> tuple[str, ...]:
    table = read_csv(path)
    position = table.position("Labels", "name the column of class names 'Labels'")
    names = [text.strip() for text in table.texts(position)]
    first: dict[str, int] = {}
    for row, name in zip(table.rows, names, strict=True):
        if not name:
            raise ValueError(f"{table.path}: row {row}, column 'Labels': no class name; fill it in")
        if name in first:
            raise ValueError(
                f"{table.path}: rows {first[name]} and {row}, column 'Labels': the same class "
                f"{name!r}; remove one"
            )
        first[name] = row
    return tuple(names)


def _filenames(table: CsvCells, position: int) -> tuple[str, ...]:
    """Names with forward slashes and no detours, each once, all inside the folder."""
    column = table.header[position]
    first: dict[str, int] = {}
    for row, text in zip(table.rows.tolist(), table.texts(position), strict=True):
        name = posixpath.normpath(text.replace("\\", "/"))
        problem = None
        if not text.strip():
            problem = "no file name; name a picture or remove the row"
        elif name.startswith("/") or re.match(r"[A-Za-z]:", name):
            problem = f"{text!r} is an absolute path; write it relative to the folder of pictures"
        elif name == ".." or name.startswith("../"):
            problem = f"{text!r} leaves the folder of pictures; set data.images to a folder above"
        if problem:
            raise ValueError(f"{table.path}: row {row}, column {column!r}: {problem}")
        if name in first:
            raise ValueError(
                f"{table.path}: rows {first[name]} and {row}, column {column!r}: the same picture "
                f"{name!r}; merge their labels into one row"
            )
        first[name] = row
    return tuple(first)


def _cell_value(text: str) -> int:
    """1, 0, UNKNOWN for an empty cell or minus one, _BAD for anything else."""
    text = text.strip().replace("\N{MINUS SIGN}", "-")
    if not text:
        return UNKNOWN
    match = _CELL.fullmatch(text)
    return int(match[1]) if match else _BAD


def _labels(table: CsvCells, positions: list[int]) -> np.ndarray:
    labels = np.empty((len(table.rows), len(positions)), dtype=np.int8)
    for j, position in enumerate(positions):
        values = [_cell_value(text) for text in table.cells[position].cat.categories]
        labels[:, j] = table.lookup(position, values)
    bad = np.argwhere(labels == _BAD)
    if len(bad):
        i, j = bad[0]
        more = f" ({len(bad) - 1} more cells like it)" if len(bad) > 1 else ""
        raise ValueError(
            f"{table.path}: row {table.rows[i]}, column {table.header[positions[j]]!r}: "
            f"{table.cells[positions[j]].iloc[i]!r} is no label{more}; "
            "write 1, 0, or nothing or -1 for unknown"
        )
    return labels


def _splits(table: CsvCells, position: int) -> tuple[str, ...]:
    texts = table.cells[position].cat.categories
    names = [_SPLIT_NAMES.get(text.strip().lower(), "") for text in texts]
    splits = table.lookup(position, names).tolist()
    if "" in splits:
        i = splits.index("")
        raise ValueError(
            f"{table.path}: row {table.rows[i]}, column {table.header[position]!r}: "
            f"{table.cells[position].iloc[i]!r} is no split; write train, val or test"
        )
    return tuple(splits)


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def _check_pictures(table: CsvCells, filenames: tuple[str, ...], folder: Path) -> None:
    """One listing per folder instead of one question per picture; names must match exactly."""
    listed: dict[str, set[str]] = {}
    missing = []
    for name in filenames:
        parent, _, base = name.rpartition("/")
        if parent not in listed:
            listed[parent] = _files_in(os.path.join(folder, parent))
        if base not in listed[parent]:
            missing.append(name)
    if not missing:
        return
    parent, _, base = missing[0].rpartition("/")
    like = [name for name in sorted(listed[parent]) if _alike(name, base)]
    hint = f" (there is {like[0]!r}, which differs in spelling from {base!r})" if like else ""
    raise ValueError(
        f"{table.path}: {len(missing)} of {len(filenames)} pictures are not in {folder}, the first "
        f"in row {table.rows[filenames.index(missing[0])]}: {quoted(missing)}{hint}; "
        "check data.images or remove their rows"
    )


def _alike(name: str, wanted: str) -> bool:
    """Equal but for case, the encoding of accents, or an extension left out."""
    name, wanted = (unicodedata.normalize("NFC", text).casefold() for text in (name, wanted))
    return wanted in (name, os.path.splitext(name)[0])
