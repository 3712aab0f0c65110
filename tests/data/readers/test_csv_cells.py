"""CSV files as text: what was written is read back, and each error names its row and column."""

import csv

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcls_jax.data.readers.cells import CsvCells
from mlcls_jax.data.readers.csv_cells import MAX_COLUMNS, MAX_LINE, read_csv
from mlcls_jax.system.console import quoted


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.csv"


def read(path, text: str | bytes) -> CsvCells:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_csv(path)


def content(cells: CsvCells) -> dict[str, list[str]]:
    return {name: column.texts for name, column in cells.columns.items()}


def test_nothing_is_interpreted(path):
    cells = read(path, "1, name ,007\n1.50, NA ,\n,nan,00\n")
    assert content(cells) == {"1": ["1.50", ""], "name": [" NA ", "nan"], "007": ["", "00"]}
    assert len(cells) == 2


@pytest.mark.parametrize(
    "text",
    [
        "a,b\nx,\ny,0\n",
        "\ufeffa,b\nx,\ny,0\n",
        "a,b\r\nx,\r\ny,0\r\n",
        "a,b\nx,\ny,0",
        "a,b\n\nx,\n , \n,\ny,0\n\n",
        '"a", b \n"x",""\ny,0\n',
    ],
    ids=["plain", "bom", "crlf", "no final newline", "empty rows", "quotes"],
)
def test_ways_to_write_the_same(path, text):
    assert content(read(path, text)) == {"a": ["x", "y"], "b": ["", "0"]}


def test_row_numbers_are_those_of_the_file(path):
    cells = read(path, "a,b\nx,1\n\n,\ny,2\n")
    assert [column.rows.tolist() for column in cells.columns.values()] == [[2, 5], [2, 5]]
    assert str(cells.columns["b"].error(1, "odd")) == f"{path}: row 5, column 'b': odd"


def test_a_header_alone_is_a_table_without_rows(path):
    cells = read(path, "a,b\n\n,\n")
    assert len(cells) == 0
    assert content(cells) == {"a": [], "b": []}


def test_map_asks_once_per_distinct_text(path):
    asked = []
    column = read(path, "a,b\nx,1\ny,2\nx,3\n").columns["a"]
    assert column.map(lambda text: asked.append(text) or text.upper()).tolist() == ["X", "Y", "X"]
    assert len(asked) == len(set(asked))


def test_check_unique_names_both_rows(path):
    column = read(path, "a,b\nx,1\ny,1\n\nx,1\nx,1\n").columns["a"]
    column.check_unique([1, 2, 3, 4], lambda i: "")
    with pytest.raises(ValueError) as caught:
        column.check_unique(column.texts, lambda i: f"{column.texts[i]!r} again")
    assert str(caught.value) == f"{path}: rows 2 and 5, column 'a': 'x' again"


def test_a_missing_column(path):
    cells = read(path, "file,dog\na.jpg,1\n")
    assert cells.column("dog", "").texts == ["1"]
    with pytest.raises(ValueError) as caught:
        cells.column("filename", "look again")
    expected = f"{path}: no column 'filename'; its columns are 'file', 'dog'; look again"
    assert str(caught.value) == expected


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_named(path, mark):
    with pytest.raises(ValueError, match="save the file with commas") as caught:
        read(path, f"filename{mark}dog\na.jpg{mark}1\n").column("filename", "")
    assert f"separated by {mark!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,dog,b,dog\n1,1,1,1\n", ["row 1, columns 2 and 4", "'dog'"]),
        ("a,dog,dog \n1,1,1\n", ["row 1, columns 2 and 3", "'dog'"]),
        ("a,b,\n1,1,x\n", ["row 1, column 3 of 3", "no name"]),
        ("", ["empty"]),
        ("\ufeff", ["empty"]),
        ("\na,b\n", ["empty"]),
        ("a,b\n1,1\n1,1,0\n", ["row 3 has 3 cells, but the header has 2"]),
        ("a,b,c\n1,1,0\n1,1\n", ["row 3 has 2 cells, but the header has 3"]),
        ("a,b,c\n1,1,\n\n1\n", ["row 4 has 1 cells, but the header has 3"]),
        ('a,b\n1,1\n"1,1\n', ["row 3", "quotation"]),
        (b"a,b\nch\xe2teau,1\n", ["UTF-8"]),
        ("a,b\n1,1\n".encode("utf-16"), ["UTF-8"]),
        ("a,b\nx\0y,1\n", ["NUL bytes", "UTF-8"]),
        ("a,b\n" + "x" * (MAX_LINE + 2**20), ["a line of more than 16,777,216 bytes"]),
        ("a," + "b," * MAX_COLUMNS, ["row 1 has 30,002 columns, more than the limit of 30,000"]),
        ('"' + "a\n" * 10**6, ["row 1 opens a quotation mark that is never closed"]),
    ],
)
def test_refused_in_one_line(path, text, parts):
    with pytest.raises(ValueError) as caught:
        read(path, text)
    message = str(caught.value)
    assert type(caught.value) is ValueError
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(part in message for part in parts), message


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="no such CSV"):
        read_csv(tmp_path / "no.csv")
    with pytest.raises(ValueError, match="is a folder"):
        read_csv(tmp_path)


def test_quoted_is_one_line():
    assert quoted(["a\nb", "c"]) == r"'a\nb', 'c'"
    assert quoted("abc", limit=1) == "'a' and 2 more"


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


@settings(deadline=None)
@given(st.lists(st.tuples(CELLS.filter(str.strip), CELLS), min_size=1, max_size=6))
def test_the_text_that_was_written_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("text") / "t.csv"
    pd.DataFrame(rows, columns=["a", "b"]).to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    columns = read_csv(path).columns
    assert list(zip(columns["a"].texts, columns["b"].texts, strict=True)) == rows
