"""Cells of label files: 1, 0 or unknown for each class, and the split of each row."""

import re
from collections.abc import Callable, Iterable

import numpy as np

from mlcls_jax.data.readers.cell_values import (
    PERCENT,
    PRESENT,
    STATES,
    UNKNOWN,
    WORDS,
    cell_value,
    is_nothing,
    soft_value,
)
from mlcls_jax.data.readers.cells import Column, listed, plain_name
from mlcls_jax.system.console import quoted

_BAD = -2  # used only while reading: the cell is not 1, 0 or UNKNOWN
_MARK = "x"  # of classes that are present, if no other mark is used
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
_MARKS = " ,;|\t\n"


def soft_columns(columns: list[Column]) -> list[str]:
    """Returns the names of the columns that hold labels in [0, 1], some of them between 0 and 1."""
    found = []
    for column in columns:
        values = {soft_value(column.distinct[code]) for code in np.unique(column.codes)}
        if None not in values and any(value not in (0, 1, UNKNOWN) for value in values):
            found.append(column.name)
    return found


def label_values(
    columns: list[Column], minus_one: str, empty_cells: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the labels of classes that have one column each.

    Args:
      columns: c columns of n cells.
      minus_one: what -1 means: "absent", "unknown", or "" if the other labels tell: next to 0 it is
        unknown.
      empty_cells: the same for empty cells, and those that are NaN or the like.

    Returns:
      int8 [n, c] of 1, 0 and UNKNOWN, and how unusual cells were understood. With soft labels,
      float32 [n, c] in [0, 1] or UNKNOWN.

    Raises:
      ValueError: a cell is not a label, or nothing tells what -1 or an empty cell means.
    """
    soft = soft_columns(columns)
    texts = _used_texts(columns)
    has_marks = {text.strip().casefold() for text in texts} - {""} == {_MARK}
    dtype = np.float32 if soft else np.int8
    values = [
        _values(column, soft_value if column.name in soft else cell_value, has_marks)
        for column in columns
    ]
    labels = np.stack([value.astype(dtype) for value in values], axis=1)
    _check_values(columns, labels)
    notes = _word_notes(texts)
    if has_marks:
        notes = (*notes, f"{_MARK!r} is 1")
    if any(PERCENT.fullmatch(text.strip()) for text in texts):
        notes = (*notes, "percentages are shares")
    if soft:
        notes = (
            *notes,
            f"soft labels from 0 to 1 in {quoted(soft)}, of which metrics take {PRESENT} and more "
            "as present",
        )
    for is_it, decided, name, words in (
        (_is_minus_one, minus_one, "minus_one", "-1"),
        (is_nothing, empty_cells, "empty_cells", "an empty cell"),
    ):
        if not any(map(is_it, texts)):
            continue
        has_absent = ((labels >= 0) & (labels < PRESENT)).any()
        if not decided and not has_absent and (name == "minus_one" or (labels == 1).any()):
            kind = "labels of -1" if name == "minus_one" else "empty cells and labels of 1"
            raise ValueError(
                f"{columns[0].path}: has {kind}, but none of 0; set data.{name}='absent' if "
                f"{words} means that the class is not in the image, or data.{name}='unknown'"
            )
        if decided == "absent":
            for column, row in zip(columns, labels.T, strict=True):
                row[column.map(is_it)] = 0
            notes = (*notes, f"{words} is absent")
    return labels, notes


def _values(column: Column, read: Callable[[str], float | None], has_marks: bool) -> np.ndarray:
    def value(text: str) -> float:
        found = 1 if has_marks and text.strip() else read(text)
        return _BAD if found is None else found

    return column.map(value)


def _is_minus_one(text: str) -> bool:
    return bool(text.strip()) and text.strip()[0] in "-\N{MINUS SIGN}" and cell_value(text) == -1


def _used_texts(columns: list[Column]) -> list[str]:
    used = {column.distinct[code] for column in columns for code in np.unique(column.codes)}
    return sorted(used)


def _word_notes(texts: list[str]) -> tuple[str, ...]:
    """How words were understood, such as "'True' is 1"."""
    meanings = {1: "1", 0: "0", UNKNOWN: "unknown"}
    words = {
        text.strip(): meanings[WORDS[text.strip().casefold()]]
        for text in texts
        if text.strip().casefold() in WORDS
    }
    return tuple(f"{word!r} is {meaning}" for word, meaning in words.items())


def _check_values(columns: list[Column], labels: np.ndarray) -> None:
    bad = np.argwhere(labels == _BAD)
    if not len(bad):
        return
    i, j = bad[0]
    others = f" ({len(bad) - 1} more such cells)" if len(bad) > 1 else ""
    names = [columns[k].name for k in np.unique(bad[:, 1])]
    splits = [
        column.name
        for column in columns
        if column.name in names
        and (_SPLIT_LIKE.search(column.name.lower()) or _names_splits(column))
    ]
    hint = f"if it holds splits or folds, set data.split_column={splits[0]!r}; " if splits else ""
    text = columns[j].texts[i]
    if text.strip().isdecimal():
        hint += "if it is a count, write 1 for 1 and more; "
    raise columns[j].error(
        i,
        f"{text!r} is not a label{others}; write 1 or yes, 0 or no, and nothing or -1 for unknown; "
        f"{hint}if {quoted(names)} holds no labels, set data.ignore_columns={listed(names)!r} or "
        "name the classes in data.label_columns; if its cells name classes, set "
        f"data.label_column={columns[j].name!r}; if a cell lists several labels, set "
        "data.label_delimiter to their separator",
    )


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
    flags = _split_flags(column)
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


def check_no_splits(columns: Iterable[Column]) -> None:
    """Refuses columns of splits that would not be used.

    Args:
      columns: those next to the labels.

    Raises:
      ValueError: a column holds train, val or test, or flags such as is_valid.
    """
    for column in columns:
        used = {_number(column.distinct[code]) for code in np.unique(column.codes)}
        is_flag = plain_name(column.name).startswith("is") and _split_flags(column)
        flags = is_flag and {cell_value(value) for value in used} == {0, 1}
        if len(used) > 1 and (flags or _names_splits(column)):
            raise ValueError(
                f"{column.path}: column {column.name!r} holds {quoted(sorted(used))}; set "
                f"data.split_column={column.name!r} if these are splits, or "
                f"data.ignore_columns={column.name!r} to draw others"
            )


def _names_splits(column: Column) -> bool:
    """Whether each cell is train, val or test."""
    return {_number(column.distinct[code]) for code in np.unique(column.codes)} <= set(SPLIT_NAMES)


def _split_flags(column: Column) -> tuple[str, str] | None:
    """What true and false mean, by the name of the column."""
    return _SPLIT_FLAGS.get(plain_name(column.name).removeprefix("is_").removeprefix("is"))


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
    names = any(cell_value(text) is None or text.casefold() in STATES for text in used)
    return words and not numbers and names
