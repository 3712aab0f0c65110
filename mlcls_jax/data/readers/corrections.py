"""Corrected labels: the list of labels that may be wrong, as a person has edited it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.cells import Column, plain_name
from mlcls_jax.data.readers.csv_files import read_csv_at

CORRECTED = "corrected"  # the column that a person fills in
_VALUES = {"1": 1, "0": 0, "?": UNKNOWN, "-1": UNKNOWN}
_ADVICE = "label_suspects.csv of a run has the columns filename, class and corrected"


@dataclass(frozen=True)
class Corrections:
    """Labels by the file name and the class: 1, 0 or UNKNOWN.

    place: the file that they are from.
    labels: the labels.
    rows: where each is in the file, for messages.
    """

    place: str
    labels: Mapping[tuple[str, str], int]
    rows: Mapping[tuple[str, str], str]

    def applied(self, splits: dict[str, LabelTable]) -> dict[str, LabelTable]:
        """Returns the tables with the corrected labels; the first one says how many have changed.

        Raises:
          ValueError: an image or a class is in none of the tables.
        """
        self._check(splits)
        changed, result = 0, {}
        for name, table in splits.items():
            row_of = {filename: row for row, filename in enumerate(table.filenames)}
            column_of = {label: column for column, label in enumerate(table.classes)}
            labels = table.labels.copy()
            targets = None if table.targets is None else table.targets.copy()
            for (filename, label), value in self.labels.items():
                if filename not in row_of:
                    continue
                place = row_of[filename], column_of[label]
                changed += int(labels[place] != value)
                labels[place] = value
                if targets is not None:
                    targets[place] = value
            result[name] = replace(table, labels=labels, targets=targets)
        first = next(iter(result))
        note = f"{self.place}: {len(self.labels)} corrected labels, of which {changed} are new"
        result[first] = replace(result[first], notes=(*result[first].notes, note))
        return result

    def _check(self, splits: Mapping[str, LabelTable]) -> None:
        classes = set(next(iter(splits.values())).classes)
        filenames = {name for table in splits.values() for name in table.filenames}
        for (filename, label), where in self.rows.items():
            if filename not in filenames:
                raise ValueError(
                    f"{self.place}: {where}: no image {filename!r} in the data; names are those of "
                    "the run that wrote the list"
                )
            if label not in classes:
                raise ValueError(
                    f"{self.place}: {where}: no class {label!r} in the data; remove the row, or "
                    "write the name of a class"
                )


def read_corrections(place: str) -> Corrections:
    """Reads the rows of a list of suspects whose column `corrected` is filled in.

    Its values are 1 (present), 0 (absent) and ? (unknown); a row without one is left as it is.

    Args:
      place: path or address of the file.

    Raises:
      ValueError: it cannot be read, a column is missing, a value is another one, or a label has two
        values; names the row.
    """
    cells = read_csv_at(place, "filename")
    named = {plain_name(name): column for name, column in cells.columns.items()}
    for name in ("filename", "class", CORRECTED):
        if name not in named:
            cells.column(name, _ADVICE)
    filenames, classes, values = (named[name] for name in ("filename", "class", CORRECTED))
    labels, rows = {}, {}
    for i, (filename, label, text) in enumerate(
        zip(filenames.texts, classes.texts, values.texts, strict=True)
    ):
        if not text.strip():
            continue
        key, value = (filename, label), _value(values, i, text)
        if labels.setdefault(key, value) != value:
            raise values.error(i, f"{filename!r}, {label!r} has another value in {rows[key]}")
        rows.setdefault(key, values.where(i))
    return Corrections(str(place), labels, rows)


def _value(column: Column, i: int, text: str) -> int:
    """Returns a label; spreadsheets write 1 as 1.0 or as TRUE in some columns."""
    plain = text.strip().lower()
    plain = {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}.get(plain, plain)
    if plain not in _VALUES:
        raise column.error(
            i, f"{text!r} is no label; write 1 (present), 0 (absent) or ? (unknown), or nothing"
        )
    return _VALUES[plain]
