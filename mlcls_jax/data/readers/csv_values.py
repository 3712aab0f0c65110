"""Cells of label files: 1, 0 or unknown for each class, and the split of each row."""

import re
from collections.abc import Callable, Iterable

import numpy as np

from mlcls_jax.data.label_table import PRESENT, UNKNOWN
from mlcls_jax.data.readers.csv_cells import Column, CsvCells, plain_name, quoted

_BAD = -2  # used only while reading: the cell is not 1, 0 or UNKNOWN
_NUMBER = re.compile(r"(\+?1|0|-1)(?:[.,]0+)?(?:[eE][+-]?0+)?")
_DECIMAL = re.compile(r"\+?(?:[01](?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?")
_WORDS = {
    **dict.fromkeys(("true", "yes", "y", "t"), 1),
    **dict.fromkeys(("false", "no", "n", "f"), 0),
    **dict.fromkeys(
        ("nan", "-nan", "na", "n/a", "#n/a", "#na", "<na>", "nat", "null", "none", "unknown"),
        UNKNOWN,
    ),
}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# What true and false mean in a column that is called like this.
_SPLIT_FLAGS = {
    **dict.fromkeys(("valid", "val", "validation"), ("val", "train")),
    "test": ("test", "train"),
    **dict.fromkeys(("train", "training"), ("train", "val")),
}
_SPLIT_LIKE = re.compile(r"fold|split|subset|partition|valid|^is_?(val|train|test)|^set$")
# Names of a column that holds one label in each row.
_LABEL_NAMES = (
    *("label", "labels", "class", "classes", "class_name", "label_name", "category", "categories"),
    *("tag", "tags"),
)
_MARKS = " ,;|\t"
# Columns next to a label that may say whether it is present, and their values that deny it.
_CONFIDENCES = ("confidence", "value", "present", "is_present", "presence", "score")
_ABSENT = {"0", "0.0", "-1", "False", "false", "no"}


def cell_value(text: str) -> int | None:
    """Returns the label in a cell: 1, 0, UNKNOWN, or None if it is none of these."""
    text = text.strip().replace("\N{MINUS SIGN}", "-")
    if not text:
        return UNKNOWN
    match = _NUMBER.fullmatch(text)
    return int(match[1]) if match else _WORDS.get(text.casefold())


def soft_value(text: str) -> float | None:
    """Returns the label in a cell, which may be between 0 and 1; None if it is none.

    >>> soft_value("0.25"), soft_value("0,25"), soft_value("1.0"), soft_value(""), soft_value("1.5")
    (0.25, 0.25, 1, -1, None)
    """
    if (label := cell_value(text)) is not None or not _DECIMAL.fullmatch(text.strip()):
        return label
    value = float(text.strip().replace(",", "."))
    return value if value <= 1 else None


def soft_columns(columns: list[Column]) -> list[str]:
    """Returns the names of the columns that hold labels in [0, 1], some of them between 0 and 1."""
    found = []
    for column in columns:
        values = {soft_value(column.distinct[code]) for code in np.unique(column.codes)}
        if None not in values and any(value not in (0, 1, UNKNOWN) for value in values):
            found.append(column.name)
    return found


def label_values(columns: list[Column], minus_one: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the labels of classes that have one column each.

    Args:
      columns: c columns of n cells.
      minus_one: what -1 means: "absent", "unknown", or "" if the other labels tell: next to 0 it is
        unknown.

    Returns:
      int8 [n, c] of 1, 0 and UNKNOWN, and how unusual cells were understood. With soft labels,
      float32 [n, c] in [0, 1] or UNKNOWN.

    Raises:
      ValueError: a cell is not a label, or nothing tells what -1 means.
    """
    soft = soft_columns(columns)
    dtype = np.float32 if soft else np.int8
    values = [
        _values(column, soft_value if column.name in soft else cell_value) for column in columns
    ]
    labels = np.stack([value.astype(dtype) for value in values], axis=1)
    _check_values(columns, labels)
    texts = _used_texts(columns)
    notes = _word_notes(texts)
    if soft:
        notes = (
            *notes,
            f"soft labels from 0 to 1 in {quoted(soft)}, of which metrics take {PRESENT} and more "
            "as present",
        )
    if not any(_is_minus_one(text) for text in texts):
        return labels, notes
    if not minus_one and not ((labels >= 0) & (labels < PRESENT)).any():
        raise ValueError(
            f"{columns[0].path}: has labels of -1, but none of 0; set data.minus_one='absent' if "
            "-1 means that the class is not in the image, or data.minus_one='unknown'"
        )
    if minus_one == "absent":
        for column, row in zip(columns, labels.T, strict=True):
            row[column.map(_is_minus_one)] = 0
        notes = (*notes, "-1 is absent")
    return labels, notes


def _values(column: Column, read: Callable[[str], float | None]) -> np.ndarray:
    return column.map(lambda text: _BAD if (value := read(text)) is None else value)


def _is_minus_one(text: str) -> bool:
    return bool(text.strip()) and text.strip()[0] in "-\N{MINUS SIGN}" and cell_value(text) == -1


def _used_texts(columns: list[Column]) -> list[str]:
    used = {column.distinct[code] for column in columns for code in np.unique(column.codes)}
    return sorted(used)


def _word_notes(texts: list[str]) -> tuple[str, ...]:
    """How words were understood, such as "'True' is 1"."""
    meanings = {1: "1", 0: "0", UNKNOWN: "unknown"}
    words = {
        text.strip(): meanings[_WORDS[text.strip().casefold()]]
        for text in texts
        if text.strip().casefold() in _WORDS
    }
    return tuple(f"{word!r} is {meaning}" for word, meaning in words.items())


def _check_values(columns: list[Column], labels: np.ndarray) -> None:
    bad = np.argwhere(labels == _BAD)
    if not len(bad):
        return
    i, j = bad[0]
    others = f" ({len(bad) - 1} more such cells)" if len(bad) > 1 else ""
    names = [columns[k].name for k in np.unique(bad[:, 1])]
    splits = [name for name in names if _SPLIT_LIKE.search(name.lower())]
    hint = f"if it holds splits or folds, set data.split_column={splits[0]!r}; " if splits else ""
    raise columns[j].error(
        i,
        f"{columns[j].texts[i]!r} is not a label{others}; write 1, 0, or an empty cell or -1 for "
        f"unknown; {hint}if {quoted(names)} holds no labels, set "
        f"data.ignore_columns={','.join(names)!r} or name the classes in data.label_columns; if a "
        "cell lists several labels, set data.label_delimiter to their separator",
    )


def confidence_column(
    cells: CsvCells, columns: list[Column], labels: Column, name: str
) -> Column | None:
    """Returns the column that says whether the label of its row is in the image, if there is one.

    Args:
      cells: the label file.
      columns: the columns that are not file names or splits.
      labels: the column that lists the labels.
      name: its name; "": a column that is called like it, and says that some labels are absent.

    Raises:
      ValueError: there is no such column, or nothing tells whether a column is one.
    """
    if name:
        return cells.column(name, "check data.confidence_column")
    found = []
    for column in columns:
        if column is labels or plain_name(column.name) not in _CONFIDENCES:
            continue
        used = {column.distinct[code].strip() for code in np.unique(column.codes)}
        values = {soft_value(text) for text in used}
        if None not in values and 0 in values:
            found.append(column)
        elif used & _ABSENT or (None not in values and values - {1, -1}):
            raise ValueError(
                f"{column.path}: column {column.name!r} may say whether a label of column "
                f"{labels.name!r} is in the image; set data.confidence_column={column.name!r} if "
                f"it does (1: it is, 0: it is not), or data.ignore_columns={column.name!r} to take "
                "all labels as present"
            )
    if len(found) > 1:
        raise ValueError(
            f"{cells.path}: {quoted(column.name for column in found)} may each say whether a label "
            f"is in the image; set data.confidence_column to one of them"
        )
    return found[0] if found else None


def split_values(
    column: Column, val_values: Iterable[str], test_values: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the split of each row: "train", "val" or "test".

    Args:
      column: n cells.
      val_values, test_values: the cells that mean val and test; all others then mean train.

    Returns:
      The n splits, and how they were understood.

    Raises:
      ValueError: a cell is not a split, or a value of the arguments is in no cell.
    """
    used = {_number(column.distinct[code]) for code in np.unique(column.codes)}
    given = {_number(value): "val" for value in val_values}
    given |= {_number(value): "test" for value in test_values}
    if given:
        if foreign := [value for value in given if value not in used]:
            raise ValueError(
                f"{column.path}: column {column.name!r} has no {foreign[0]!r}, only "
                f"{quoted(sorted(used))}; correct data.{given[foreign[0]]}_values"
            )
        splits = column.map(lambda text: given.get(_number(text), "train")).tolist()
        return tuple(splits), (f"{_split_note(column, given)}, others are train",)
    named = {value: SPLIT_NAMES.get(value, "") for value in used}
    flags = _SPLIT_FLAGS.get(plain_name(column.name).removeprefix("is_").removeprefix("is"))
    as_flags = {value: cell_value(value) for value in used}
    if flags and set(as_flags.values()) <= {0, 1}:
        named = {value: flags[0] if flag else flags[1] for value, flag in as_flags.items()}
        return tuple(column.map(lambda text: named.get(_number(text), "")).tolist()), (
            _split_note(column, named),
        )
    splits = column.map(lambda text: named.get(_number(text), "")).tolist()
    if "" in splits:
        i = splits.index("")
        raise column.error(
            i,
            f"{column.texts[i]!r} is not a split; write train, val or test, or set data.val_values "
            "to the values that mean val, such as the number of a fold",
        )
    return tuple(splits), ()


def _split_note(column: Column, meanings: dict[str, str]) -> str:
    parts = [f"{value} is {split}" for value, split in sorted(meanings.items())]
    return f"in column {column.name!r}, {', '.join(parts)}"


def _number(text: str) -> str:
    """A value of a split column, in one spelling."""
    return re.sub(r"(?<=\d)\.0+$", "", text.strip().lower())


def holds_one_label(column: Column) -> bool:
    """Returns whether each cell of a column is one label in words.

    It is if the name of the column says so, and no cell could be a list or a number.
    """
    if plain_name(column.name) not in _LABEL_NAMES:
        return False
    used = {column.distinct[code].strip() for code in np.unique(column.codes)}
    words = all(text and not any(mark in text for mark in _MARKS) for text in used)
    numbers = any(text.strip("+-").replace(".", "").isdecimal() for text in used)
    return words and not numbers and any(cell_value(text) is None for text in used)
