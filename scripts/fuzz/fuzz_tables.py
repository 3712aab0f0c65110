"""Targets of fuzz.py: label files in many layouts, compared with what a second reader finds.

The second reader is told the encoding and the separator, and knows few rules. A table that ours
accepts must mean the same to both; ours may refuse any table.
"""

import ast
import csv
import fnmatch
import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mlcls_jax.config import Config, Data
from mlcls_jax.config.checks import validate
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_labels import labels_csv, read_labels
from mlcls_jax.data.readers.read_table import read_table

IMAGES = "abcdefgh"
CLASSES = ("cat", "dog", "big dog", "Straße", "/m/01", "cow,calf", "no", "7", "Cat")
OTHERS = ("split", "is_valid", "Sex", "confidence", "score", "fold", "note", "present")
HARD = ("0", "1")
POOLS = {
    "hard": HARD,
    "float": ("0.0", "1.0", " 1 ", ""),
    "words": ("True", "False", "yes", "no", "NaN", "", "None"),
    "signs": ("-1", "1", "-1.0", "1", "\N{MINUS SIGN}1"),
    "unknown": ("0", "1", "-1", ""),
    "soft": ("0", "1", "0.5", ".25", "0.75", "1e-1", "0.499", "", "-1"),
    "odd": (
        "2",
        "1.5",
        "-0.5",
        "0.5.5",
        "[1]",
        "male",
        "train",
        "val",
        "1 0",
        "1;0",
        "'",
        "32",
    ),
}
YES, NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
UNKNOWN = {"", "nan", "none", "-1", "-1.0"}
SPLITS = {"train": "train", "val": "val", "test": "test"}
# (separator, encoding)
WRITTEN = [(",", "utf-8")] * 4 + [
    (mark, encoding) for mark in ",;\t|" for encoding in ("utf-8-sig", "utf-16", "cp1252")
]

Table = tuple[list[list[str]], tuple[str, str], dict[str, str]]


def tables() -> st.SearchStrategy:
    """Returns a strategy for (rows with the header first, (separator, encoding), options)."""
    return _tables()


@st.composite
def _tables(draw) -> Table:
    kind = draw(st.sampled_from(["columns", "columns", "listed", "confidences"]))
    names = draw(
        st.lists(st.sampled_from(IMAGES), min_size=1, max_size=7, unique=draw(st.booleans()))
    )
    style = draw(st.sampled_from(["{}.jpg", "{}", "images/{}.jpg", " {}.jpg", ".\\{}.jpg"]))
    rows = [[style.format(draw(st.sampled_from([x, x, x.upper()])))] for x in names]
    header, options = ["filename"], {}
    classes = draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=4, unique=True))
    if kind == "columns":
        header += classes
        for _ in classes:
            pool = POOLS[draw(st.sampled_from([*POOLS][:-1]))]
            for row in rows:
                row.append(draw(st.sampled_from(pool)))
        if draw(st.integers(0, 3)) == 0:
            options["minus_one"] = draw(st.sampled_from(["absent", "unknown"]))
        if draw(st.integers(0, 3)) == 0:
            options["empty_cells"] = draw(st.sampled_from(["absent", "unknown"]))
    else:
        header.append(draw(st.sampled_from(["label", "labels", "tags", "Finding Labels"])))
        written = draw(st.sampled_from(["one", "repr", "json", ";", "|", " ", ", "]))
        for row in rows:
            found = draw(st.lists(st.sampled_from(classes), max_size=3, unique=True))
            row.append(
                _cell(found if kind == "listed" and written != "one" else found[:1], written)
            )
        if draw(st.booleans()):
            options["label_column"] = header[1]
        if draw(st.booleans()):
            options["label_delimiter"] = draw(st.sampled_from([";", "|", " ", ","]))
        if kind == "confidences":
            header.append(draw(st.sampled_from(["Confidence", "present", "certainty"])))
            pool = POOLS[draw(st.sampled_from(["hard", "hard", "soft", "words", "float"]))]
            for row in rows:
                row.append(draw(st.sampled_from(pool)))
            if draw(st.booleans()):
                options["confidence_column"] = header[2]
    for name in draw(st.lists(st.sampled_from(OTHERS), max_size=2, unique=True)):
        header.append(name)
        pool = ("train", "val") if name == "split" else POOLS[draw(st.sampled_from([*POOLS]))]
        for row in rows:
            row.append(draw(st.sampled_from(pool)))
        if draw(st.booleans()) and name != "split":
            options["ignore_columns"] = name
    if draw(st.integers(0, 5)) == 0:
        options["label_columns"] = draw(st.sampled_from(["*", ",".join(classes), "c*", "?o*"]))
    if draw(st.integers(0, 3)) == 0:
        header, rows = ["", *header], [[str(i), *row] for i, row in enumerate(rows)]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        row = draw(st.sampled_from(rows))
        other = POOLS[draw(st.sampled_from([*POOLS]))]
        row[draw(st.integers(1, len(row) - 1))] = draw(st.sampled_from(other))
    return [header, *rows], draw(st.sampled_from(WRITTEN)), options


def _cell(labels: list[str], written: str) -> str:
    if written == "repr":
        return repr(labels)
    if written == "json":
        return "[" + ", ".join(f'"{label}"' for label in labels) + "]"
    return (";" if written == "one" else written).join(labels)


def second_reader(table: Table) -> dict[tuple[str, str], float] | None:
    """Returns the label of each image and class, -1 if unknown; None if there are none.

    Without a label for some image and class, the table must be refused.
    """
    (header, *rows), _, options = table
    stems = [row[header.index("filename")].strip().replace("\\", "/") for row in rows]
    stems = [name.rpartition("/")[2].split(".")[0].lower() for name in stems]
    unused = {"filename", "split", ""} | set(options.get("ignore_columns", "").split(","))
    columns = [name for name in header if name not in unused]
    if wanted := options.get("label_columns"):
        known = [name for name in columns if name in wanted.split(",")]
        columns = [x for x in columns if x in known or fnmatch.fnmatchcase(x, wanted)] or known
        if wanted in header:
            columns = [wanted]
    cells = {name: [row[header.index(name)].strip() for row in rows] for name in header}
    labels = options.get("label_column") or (
        columns[0] if _is_listed(columns, cells, options) else ""
    )
    found: dict[tuple[str, str], float] = {}
    if not labels:
        for name in columns:
            for stem, text in zip(stems, cells[name], strict=True):
                value = _value(text, options)
                if value is None or found.setdefault((stem, name), value) != value:
                    return None
        return found
    lists = [_listed(text, options.get("label_delimiter", "")) for text in cells[labels]]
    confidences = options.get("confidence_column")
    for name in (
        () if confidences else ("Confidence", "confidence", "certainty", "present", "score")
    ):
        if name in columns and name != labels and any(_value(x, options) == 0 for x in cells[name]):
            confidences = name
    classes = {label for labels in lists for label in labels}
    rest = -1.0 if confidences else 0.0
    for i, (stem, some) in enumerate(zip(stems, lists, strict=True)):
        value = _value(cells[confidences][i], options) if confidences else 1.0
        for label in classes:
            found.setdefault((stem, label), rest)
        for label in some:
            if value is None or (found[stem, label] not in (rest, value) and value != -1):
                return None
            found[stem, label] = max(found[stem, label], value)
    return found


def _is_listed(columns: list[str], cells: dict[str, list[str]], options: dict[str, str]) -> bool:
    if options.get("label_delimiter"):
        return len(columns) == 1
    return len(columns) == 1 and any(_value(text, options) is None for text in cells[columns[0]])


def _value(text: str, options: dict[str, str]) -> float | None:
    text = text.strip().lower().replace("\N{MINUS SIGN}", "-")
    if text in YES or text in NO:
        return float(text in YES)
    if text in UNKNOWN:
        name = "minus_one" if text[:1] == "-" else "empty_cells"
        is_absent = options.get(name) == "absent"
        return 0.0 if is_absent else -1.0
    try:
        return float(np.float32(text)) if 0 <= float(text) <= 1 else None
    except ValueError:
        return None


def _listed(text: str, delimiter: str) -> list[str]:
    if text.lower() in ("", "nan", "none"):
        return []
    if text[0] == "[" and text[-1] == "]":
        try:
            return [str(item).strip() for item in ast.literal_eval(text)]
        except (ValueError, SyntaxError):
            text, delimiter = text[1:-1], ","
    parts = text.split(delimiter) if delimiter else [text]
    return [part.strip() for part in parts if part.strip()]


def compare(table: Table, place: Path) -> None:
    """Reads a table with both readers; and again what ours writes."""
    rows, (separator, encoding), options = table
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows(rows)
    folder = place / "images"
    folder.mkdir(exist_ok=True)
    for name in IMAGES:
        (folder / f"{name}.jpg").touch()
    file = place / "labels.csv"
    try:
        contents = text.getvalue().encode(encoding)
    except UnicodeEncodeError:  # a sign that Windows-1252 lacks
        contents = text.getvalue().encode()
    file.write_bytes(contents)
    fields: dict[str, Any] = {"csv": str(file), "images": str(folder), **options}
    found = _read(fields)
    ours = _labels(found)
    _check_equal(ours, second_reader(table))
    hard = {-1.0: -1, **{value: int(value >= 0.5) for value in ours.values() if value >= 0}}
    values = [hard[value] for value in ours.values()]
    assert found.labels.ravel().tolist() == values
    if "split" in rows[0]:
        at = rows[0].index("split")
        splits = {SPLITS[row[at].strip()] for row in rows[1:]}
        assert found.splits is not None and set(found.splits) == splits
    written = place / "written.csv"
    written.write_text(labels_csv(found), encoding="utf-8")
    again = read_labels(written, folder, label_columns="*", empty_cells="unknown")
    np.testing.assert_array_equal(again.train_labels, found.train_labels)
    assert (again.classes, again.filenames) == (found.classes, found.filenames)


def compare_dataset(table: Table, place: Path) -> None:
    """Reads a table as the columns of a Parquet file, one image a row, with both readers."""
    pa, parquet = (importlib.import_module(f"pyarrow{name}") for name in ("", ".parquet"))
    (header, *rows), written, options = table
    at = header.index("filename")
    columns: dict[str, list[Any]] = {
        name: _typed([row[i].strip() for row in rows])
        for i, name in enumerate(header)
        if name and i != at
    }
    columns["image"] = [{"bytes": b"", "path": None}] * len(rows)
    file = place / "x.parquet"
    parquet.write_table(pa.table(columns), file)
    ours = _labels(_read({"source": "hf", "csv": str(file), **options}))
    columns |= {"filename": [f"{i:08d}" for i in range(len(rows))]}
    texts = [
        ["" if columns[name][i] is None else str(columns[name][i]) for name in header if name]
        for i in range(len(rows))
    ]
    table = [[name for name in header if name], *texts], written, options
    _check_equal(ours, second_reader(table))


def _typed(texts: list[str]) -> list[Any]:
    """Returns cells as `datasets` would store them: integers, floats or strings, None if empty."""
    for kind in (int, float):
        try:
            return [kind(text) if text else None for text in texts]
        except ValueError:
            continue
    return [text or None for text in texts]


def _read(fields: dict[str, Any]) -> LabelTable:
    data = Data(**fields)
    validate(Config(data=data))
    return read_table(data, data.csv, data.images)


def _labels(table: LabelTable) -> dict[tuple[str, str], float]:
    return {
        (Path(name).stem, label): float(value)
        for name, row in zip(table.filenames, table.train_labels, strict=True)
        for label, value in zip(table.classes, row, strict=True)
    }


def _check_equal(ours: dict, theirs: dict | None) -> None:
    assert ours == theirs, f"ours: {ours}, the second reader: {theirs}"
