"""Cells that list several labels: separated by a delimiter, or written as a list."""

import ast
import json
import re
import string
from collections.abc import Sequence

import numpy as np

from mlcls_jax.data.readers.cells import Column
from mlcls_jax.system.console import quoted

_EMPTY = {"nan", "NaN", "NAN", "<NA>", "NA", "N/A", "#N/A", "null", "NULL", "None", "set()"}
_MARKS = (";", "|", ",")  # delimiters to suggest
_VALUES = {"0", "1", "0.0", "1.0", "0.", "1.", "true", "false", "yes", "no"}
# Marks within many names, which may separate labels if one of these stands alone in a cell.
_OTHER_MARKS = ("/", "+", "&", " and ")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?")
_WITH_VALUE = re.compile(r".*\D\s*[:=]\s*(\d*\.?\d+)|.*\S\s*\((\d*\.\d+)\)")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_WRAPPED = re.compile(r"\w+\(\s*[\[({'\"]")  # such as array(['cat'])
_NUMBERS = re.compile(r"[\d.\s]+")
_QUOTED_NEIGHBOURS = re.compile(r"""(?<=['"])\s+(?=['"])""")  # as NumPy prints arrays of strings


def delimited_labels(
    column: Column, delimiter: str, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """Splits cells that list several labels, as scikit-learn's MultiLabelBinarizer does.

    Spaces around a label are ignored, and so are empty labels between two delimiters. An empty
    cell means that every class is absent, and so does one that says `nan` or the like. If the cells
    are lists as in Python or JSON, the delimiter is not used.

    Args:
      column: n cells.
      delimiter: the separator between two labels; "": each cell is one label, or a list.
      classes: all class names, in order; None: the labels found in the column, sorted.

    Returns:
      The c class names; labels: int8 [n, c] of 1 and 0; and how the cells were understood.

    Raises:
      ValueError: a label is not one of `classes`, two labels differ only in case, or the column
        has no labels. The message is one line with file, row and column.
    """
    used = np.unique(column.codes).tolist()
    names, notes = _split(column, used, delimiter)
    found = sorted({label for code in used for label in names[code]})
    if classes is None:
        if not found:
            raise ValueError(
                f"{column.path}: column {column.name!r} has no labels; fill it in, or set "
                "data.label_column to another column"
            )
        _check_case(column, names, found)
        _check_signs(column, names, found)
        are_lists = any("are lists" in note for note in notes)
        _check_values(column, [names[code] for code in used], bool(delimiter) and not are_lists)
        if not notes or delimiter:
            _check_delimiter(column, delimiter, found)
            _check_marks(column, names, delimiter, found)
        classes = found
    index = {name: i for i, name in enumerate(classes)}
    if foreign := [label for label in found if label not in index]:
        raise column.error(
            _cell_with(column, names, foreign[0]),
            f"the label {foreign[0]!r} is not one of the classes {quoted(classes)}; correct it, or "
            f"correct data.label_delimiter={delimiter!r}",
        )
    labels = np.zeros((len(names), len(classes)), np.int8)
    for code in used:
        labels[code, [index[label] for label in names[code]]] = 1
    return tuple(classes), labels[column.codes], notes


def check_one_label(column: Column) -> None:
    """Refuses a column whose cells may list several labels, for which a delimiter is needed.

    They may if they contain a mark such as `;`, or if cells of several words share some of them.

    Raises:
      ValueError: names a cell and the option that decides.
    """
    texts = [column.distinct[code].strip() for code in np.unique(column.codes)]
    texts = [text for text in texts if not _is_empty(text)]
    owner: dict[str, str] = {}
    for text in texts:
        marks = [mark for mark in (*_MARKS, "\t", "\n") if mark in text]
        marks = marks or [mark for mark in _OTHER_MARKS if _lists_others(text, mark, texts)]
        shared = [word for word in set(text.split()) if owner.setdefault(word, text) != text]
        if not marks and shared and " " in text + owner[shared[0]]:
            marks, text = [" "], text if " " in text else owner[shared[0]]
        if marks:
            i = next(
                i for i, code in enumerate(column.codes) if text == column.distinct[code].strip()
            )
            decides = f"set data.label_delimiter={marks[0]!r} if it is, or"
            if marks[0].strip().isalpha():
                decides = "write a mark such as ';' between them if it is, or set it"
            raise column.error(
                i,
                f"{text!r} may be several labels; {decides} to a mark that is in no cell, such as "
                "'~', if each cell is one label",
            )


def _lists_others(text: str, mark: str, texts: list[str]) -> bool:
    """Whether a part of a cell, between such marks, is the whole of another cell."""
    parts = [part.strip() for part in text.split(mark)]
    return len(parts) > 1 and not set(texts).isdisjoint(parts)


def holds_lists(column: Column) -> bool:
    """Returns whether the cells of a column are empty, or lists as in Python or JSON."""
    texts = [column.distinct[code].strip() for code in np.unique(column.codes)]
    filled = [text for text in texts if not _is_empty(text)]
    brackets = all(_BRACKETS.get(text[0]) == text[-1] for text in filled)
    return brackets and any(_as_list(text) is not None for text in filled[:10])


def _split(
    column: Column, used: list[int], delimiter: str
) -> tuple[list[list[str]], tuple[str, ...]]:
    """The labels in each distinct cell, and how cells were understood."""
    lists = {code: _as_list(column.distinct[code]) for code in used}
    filled = [code for code in used if not _is_empty(column.distinct[code])]
    found = [code for code in filled if lists[code] is not None]
    words = sorted({column.distinct[code].strip() for code in used} & _EMPTY)
    notes = tuple(f"{word!r} in column {column.name!r} is no label" for word in words)
    if not found:
        for code in filled:
            text = column.distinct[code].strip()
            if text[0] in "[{" or _WRAPPED.match(text):
                i = int(np.flatnonzero(column.codes == code)[0])
                raise column.error(
                    i, f"{column.texts[i]!r} is no list of labels; write ['cat', 'dog'] or cat;dog"
                )
        return [
            [] if _is_empty(text) else _parts(text, delimiter) for text in column.distinct
        ], notes
    if others := [code for code in filled if lists[code] is None]:
        i = int(np.flatnonzero(np.isin(column.codes, others))[0])
        raise column.error(
            i, f"{column.texts[i]!r} is no list, but other cells are; write all in the same way"
        )
    names = [lists.get(code) or [] for code in range(len(column.distinct))]
    return names, (*notes, f"the cells of column {column.name!r} are lists")


def _parts(text: str, delimiter: str) -> list[str]:
    parts = text.split(delimiter) if delimiter else [text]
    return [label for part in parts if (label := part.strip())]


def _as_list(text: str) -> list[str] | None:
    """The labels of a cell that is a list of words or numbers; None if it is not."""
    text = text.strip()
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return None
    if not text[1:-1].strip():
        return []
    values = None
    for read in (json.loads, ast.literal_eval):
        try:
            values = read(_QUOTED_NEIGHBOURS.sub(",", text))
            break
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    if not isinstance(values, list | tuple | set):
        inner = text[1:-1]
        if text[0] != "[" or any(mark in inner for mark in "[]'\""):
            return None
        if "," not in inner and not _NUMBERS.fullmatch(inner) and " " in inner.strip():
            return None  # one label of two words, or two
        values = inner.split(None if _NUMBERS.fullmatch(inner) else ",")  # [cat, dog] or [0 1 1]
    items = list(values)
    if not all(
        isinstance(item, str | int | float) and not isinstance(item, bool) for item in items
    ):
        return None
    return [label for item in items if (label := str(item).strip())]


def _is_empty(text: str) -> bool:
    """Returns whether a cell has no label."""
    return not text.strip() or text.strip() in _EMPTY


def _check_values(column: Column, names: list[list[str]], is_certain: bool) -> None:
    """Refuses labels that are values of classes, such as `[0, 1, 1]`, `011` or `cat:0.9`.

    Args:
      column: n cells.
      names: the labels of each distinct cell.
      is_certain: whether numbers with a fraction are accepted as names.

    Raises:
      ValueError: names the column and some labels.
    """
    lengths = {len(labels) for labels in names}
    values = {label.casefold() for labels in names for label in labels}
    bits = max(lengths) == 1 and _are_bits(values)
    if (len(lengths) == 1 or max(lengths) == 1) and (values <= _VALUES or bits):
        raise _not_names(column, values, "and set data.label_delimiter=''")
    if all(_NUMBER.fullmatch(value) for value in values) and not is_certain:
        fractions = {value for value in values if float(value.replace(",", ".")) % 1}
        if fractions:
            raise _not_names(column, fractions, "or set data.label_delimiter='~' if they are names")
    found = [_WITH_VALUE.fullmatch(value) for value in values]
    numbers = {float(match[1] or match[2]) for match in found if match}
    if all(found) and (numbers == {0, 1} or any(number % 1 for number in numbers)):
        raise _not_names(column, values, "with numbers from 0 to 1 as soft labels")


def _are_bits(values: set[str]) -> bool:
    """Whether each value has as many digits of 0 and 1, one for each class."""
    digits = len({len(value) for value in values}) == 1 and all(
        re.fullmatch("[01]{2,}", value) for value in values
    )
    return digits and any(value.startswith("0") for value in values)


def _not_names(column: Column, values: set[str], advice: str) -> ValueError:
    return ValueError(
        f"{column.path}: the cells of column {column.name!r} hold {quoted(sorted(values))}, "
        f"not names of classes; write one column for each class, {advice}"
    )


def _check_delimiter(column: Column, delimiter: str, found: list[str]) -> None:
    """Suggests another delimiter if no cell contains the given one but most contain the other."""
    ends = [mark for mark in _MARKS if mark != delimiter and any(x.endswith(mark) for x in found)]
    if delimiter.isspace() and ends:
        raise ValueError(
            f"{column.path}: labels of column {column.name!r} end in {ends[0]!r}, such as "
            f"{next(x for x in found if x.endswith(ends[0]))!r}; set "
            f"data.label_delimiter={ends[0]!r}"
        )
    if delimiter and any(delimiter in text for text in column.distinct):
        return
    for mark in _MARKS:
        if 2 * sum(mark in label for label in found) > len(found):
            raise ValueError(
                f"{column.path}: no cell of column {column.name!r} contains {delimiter!r}, but "
                f"most contain {mark!r}, such as {found[-1]!r}; set data.label_delimiter={mark!r}"
            )


def _check_marks(column: Column, names: list[list[str]], delimiter: str, found: list[str]) -> None:
    """Refuses a label that consists of other labels, with another mark between them."""
    known = set(found)
    for label in found:
        for mark in _MARKS:
            parts = [part.strip() for part in label.split(mark)]
            if len(parts) > 1 and known.issuperset(parts):
                raise column.error(
                    _cell_with(column, names, label),
                    f"{label!r} lists labels that stand alone in other cells; separate all labels "
                    f"by data.label_delimiter={delimiter!r}",
                )


def _check_case(column: Column, names: list[list[str]], found: list[str]) -> None:
    """Refuses labels that differ only in case."""
    first: dict[str, str] = {}
    for label in found:
        other = first.setdefault(label.casefold(), label)
        if other != label:
            raise column.error(
                _cell_with(column, names, label),
                f"the labels {other!r} and {label!r} differ only in case; use one spelling",
            )


def _check_signs(column: Column, names: list[list[str]], found: list[str]) -> None:
    """Refuses labels such as '-' or '?', which may say that there is no label, or be one."""
    for label in found:
        if label and not label.strip(string.punctuation):
            raise column.error(
                _cell_with(column, names, label),
                f"the label {label!r} may stand for no label; leave the cell empty, or give the "
                "class a name",
            )


def _cell_with(column: Column, names: list[list[str]], label: str) -> int:
    """Returns the index of the first cell with a label."""
    return next(i for i, code in enumerate(column.codes) if label in names[code])
