"""Names of classes for labels that call them by codes (data.class_names)."""

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.config import Data
from mlcls_jax.data.readers.class_names import read_class_names
from mlcls_jax.data.readers.read_table import read_table

NAMES = '/m/1,Cat\n/m/2,"Dog, big"\n/m/3,Jaguar\n/m/4,Jaguar\n'


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "names.csv").write_text(NAMES)
    return tmp_path


def read(folder, text, classes=None, **fields):
    (folder / "labels.csv").write_text(text)
    data = Data(class_names=str(folder / "names.csv"), **fields)
    return read_table(data, str(folder / "labels.csv"), str(folder), classes=classes)


COLUMNS = "filename,/m/2,/m/1\n0.png,1,0\n1.png,0,1\n"
ROWS = "filename,label\n0.png,/m/2\n0.png,/m/1\n1.png,/m/1\n"


def test_columns_and_listed_labels_get_their_names(folder):
    table = read(folder, COLUMNS)
    assert table.classes == ("Dog, big", "Cat") and table.labels.tolist() == [[1, 0], [0, 1]]
    assert table.notes == ()
    table = read(folder, ROWS, label_column="label")
    assert dict(zip(table.classes, table.positives.tolist(), strict=True)) == {
        "Cat": 2,
        "Dog, big": 1,
    }


def test_a_second_file_is_read_with_the_classes_of_the_first(folder):
    """Not every class need be in it."""
    table = read(folder, "filename,label\n2.png,/m/1\n", ["Dog, big", "Cat"], label_column="label")
    assert table.classes == ("Dog, big", "Cat") and table.labels.tolist() == [[0, 1]]


def test_a_name_of_several_classes_has_their_codes(folder):
    table = read(folder, "filename,/m/3,/m/4,/m/1\n0.png,1,0,1\n1.png,0,1,0\n")
    assert table.classes == ("Jaguar (/m/3)", "Jaguar (/m/4)", "Cat")


def test_a_header_is_no_class(folder):
    (folder / "names.csv").write_text("LabelName,DisplayName\n" + NAMES)
    assert read(folder, COLUMNS).classes == ("Dog, big", "Cat")


def test_a_class_without_a_name_keeps_its_code_and_is_named(folder):
    table = read(folder, COLUMNS.replace("/m/2", "/m/9"))
    assert table.classes == ("/m/9", "Cat")
    assert "1 of 2 classes has no name and keeps its code: '/m/9'" in table.notes[-1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a,b\nc,d\n", r"names none of the 2 classes, such as '/m/2'"),
        ("/m/1,a,b\n/m/2,c,d\n", "has 3 columns; data.class_names is a file of two"),
        ("/m/1,Cat\n/m/2,\n", r"row 2, column 'Cat': the cell is empty"),
        ("code,name\n/m/1,Cat\n/m/1,Dog\n", r"rows 2 and 3, column 'code': both name '/m/1'"),
        ("/m/1,Cat\n/m/1,Dog\n", "row 1 and another one name '/m/1'"),
        ("/m/1,/m/2\n/m/8,x\n", "calls a class '/m/2', which is what the labels call another"),
    ],
)
def test_other_files_are_refused(folder, names, message):
    (folder / "names.csv").write_text(names)
    with pytest.raises(ValueError, match=message):
        read(folder, COLUMNS)


def test_a_missing_file_is_named(folder):
    with pytest.raises(ValueError, match=r"none\.csv: no such CSV file"):
        read_class_names(str(folder / "none.csv"))
