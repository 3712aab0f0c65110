"""Corrected labels: what is read, what is refused, and the tables that they change."""

import re
from pathlib import Path

import numpy as np
import pytest

from mlcls_jax.config import Data
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.corrections import read_corrections
from mlcls_jax.data.splits import load_splits


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "label_suspects.csv"
        path.write_text(text)
        return str(path)

    return write


def a_table(names: tuple[str, ...], targets: bool = False) -> LabelTable:
    labels = np.zeros((len(names), 2), np.int8)
    return LabelTable(
        Path("p"), names, labels, ("cat", "=dog"), targets=labels * 1.0 if targets else None
    )


def test_rows_that_are_filled_in_replace_labels_of_all_splits(written):
    text = "filename,class,label,rank,corrected\n"
    text += "a.jpg,cat,0,1,1\nb.jpg,'=dog,0,2,?\na.jpg,'=dog,0,3,\n"
    splits = {"train": a_table(("a.jpg", "c.jpg"), targets=True), "val": a_table(("b.jpg",))}
    corrected = read_corrections(written(text)).applied(splits)
    assert corrected["train"].labels.tolist() == [[1, 0], [0, 0]]
    assert corrected["train"].targets.tolist() == [[1, 0], [0, 0]]
    assert corrected["val"].labels.tolist() == [[0, UNKNOWN]]
    assert not splits["train"].labels.any()  # the tables that were read stay as they are
    (note,) = corrected["train"].notes
    assert note.endswith("2 corrected labels, of which 2 are new")


def test_a_spreadsheet_may_write_other_separators_and_numbers(written):
    text = "\ufeffFilename;Class;Corrected\na.jpg;cat;1.0\nb.jpg;cat;FALSE\n"
    found = read_corrections(written(text))
    assert found.labels == {("a.jpg", "cat"): 1, ("b.jpg", "cat"): 0}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("a.jpg,cat,yes", "row 2, column 'corrected': 'yes' is no label; write 1"),
        ("a.jpg,cat,1\na.jpg,cat,0", "row 3, column 'corrected': .*another value in row 2"),
        ("x.jpg,cat,1", "row 2, column 'corrected': no image 'x.jpg' in the data"),
        ("a.jpg,cow,1", "row 2, column 'corrected': no class 'cow' in the data"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_row(written, rows, problem):
    path = written(f"filename,class,corrected\n{rows}\n")
    with pytest.raises(ValueError, match=problem) as error:
        read_corrections(path).applied({"train": a_table(("a.jpg",))})
    assert str(error.value).startswith(path) and "\n" not in str(error.value)


def test_a_list_without_the_column_is_refused(written):
    with pytest.raises(ValueError, match=re.escape("no column 'corrected'")):
        read_corrections(written("filename,class\na.jpg,cat\n"))


def test_a_correction_leaves_each_image_in_its_split(written, tmp_path):
    rows = "".join(f"{i}.jpg,{i % 2},{1 - i % 2}\n" for i in range(40))
    for number in range(40):
        (tmp_path / f"{number}.jpg").touch()
    (tmp_path / "labels.csv").write_text(f"filename,cat,dog\n{rows}")
    data = Data(csv=str(tmp_path / "labels.csv"), images=str(tmp_path))
    before = load_splits(data)
    data.corrections = written("filename,class,corrected\n0.jpg,cat,1\n1.jpg,cat,0\n")
    after = load_splits(data)
    for name, table in before.items():
        assert after[name].filenames == table.filenames
    changed = sum(int((after[name].labels != before[name].labels).sum()) for name in before)
    assert changed == 2
