"""CSVs that we write: no cell is a formula, whatever separates cells, and all are read back."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_cells import read_csv
from mlcls_jax.data.readers.csv_labels import labels_csv, read_labels
from mlcls_jax.data.readers.csv_writing import csv_text, escaped_cell, unescaped_cell
from mlcls_jax.data.saved_splits import read_splits, write_splits

TEXT = st.text(st.sampled_from(list("ab=+-@＝;,\t\r\n' \"")), max_size=8) | st.text(max_size=4)
HOSTILE = ("=cmd|' /C calc'!A0", 'x;=HYPERLINK("y")', "'=1", "''=1", "a;'-1", "＝1", "plain-name")


@given(TEXT)
def test_the_escape_is_removed_exactly(text):
    assert unescaped_cell(escaped_cell(text)) == text


@given(TEXT)
def test_no_separator_makes_a_formula_of_an_escaped_cell(text):
    """The cells of a spreadsheet that takes semicolons or tabs for separators, or nothing."""
    for cell in re.split(r"[;\t\r\n]", escaped_cell(text)):
        assert not re.match(r"\s*[=+\-@＝＋－＠]", cell)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_holds_no_formula_for_any_separator(separator):
    frame = pd.DataFrame({"filename": HOSTILE, "=class": [0.5] * len(HOSTILE)})
    text = csv_text(frame, "%.6f")
    for row in csv.reader(io.StringIO(text), delimiter=separator):
        assert not any(cell.lstrip()[:1] in tuple("=+-@＝") for cell in row if cell.strip())


@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=4, unique_by=str.strip))
def test_a_table_is_read_back(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    frame = pd.DataFrame({"filename": names, "n": range(len(names))})
    path.write_bytes(csv_text(frame).encode("utf-8", "backslashreplace"))
    if not any("\0" in name for name in names):
        assert read_csv(path).columns["filename"].texts == names


def test_splits_and_labels_are_read_back(tmp_path):
    names = tuple(name.replace("/", "|") for name in HOSTILE)
    for name in names:
        (tmp_path / name).touch()
    table = LabelTable(str(tmp_path), names, np.eye(7, dtype=np.int8), tuple("=abcdef"))
    splits = {"train": table.take(range(5)), "val": table.take([5, 6])}
    write_splits(tmp_path / "splits.csv", splits)
    assert "\n=" not in (tmp_path / "splits.csv").read_text()
    again = read_splits(tmp_path / "splits.csv", table)
    assert [again[name].filenames for name in splits] == [names[:5], names[5:]]
    (tmp_path / "labels.csv").write_text(labels_csv(table))
    read = read_labels(tmp_path / "labels.csv", tmp_path)
    assert (read.filenames, read.classes) == (table.filenames, table.classes)
    np.testing.assert_array_equal(read.labels, table.labels)


def test_two_texts_that_are_the_same_without_escapes_are_one(tmp_path):
    (tmp_path / "t.csv").write_text("label\n'=a\n=a\nb\n")
    column = read_csv(tmp_path / "t.csv").columns["label"]
    assert column.texts == ["=a", "=a", "b"] and sorted(column.distinct)[:2] == ["=a", "b"]
