"""Columns that list labels: what else their cells and the columns next to them may mean."""

import pytest
from label_place import Place

from mlcls_jax.data.label_table import UNKNOWN


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    place.add("a.jpg", "b.jpg", "c.jpg")
    return place


def long(name, values) -> str:
    rows = ("a.jpg,cat", "a.jpg,dog", "b.jpg,cat", "b.jpg,dog")
    lines = [f"{row},{value}" for row, value in zip(rows, values, strict=True)]
    return "\n".join([f"filename,label,{name}", *lines]) + "\n"


@pytest.mark.parametrize("name", ["is_positive", "exists", "probability", "Label present"])
def test_other_names_of_confidences(place, name):
    found = place.read(long(name, "1001"), label_column="label")
    assert found.labels.tolist() == [[1, 0], [0, 1]]


def test_a_column_that_denies_labels_is_decided(place):
    text = long("verified", "1001")
    message = place.refusal(text, label_column="label")
    assert "data.confidence_column='verified'" in message
    found = place.read(text, label_column="label", confidence_column="verified")
    assert found.labels.tolist() == [[1, 0], [0, 1]]
    found = place.read(text, label_column="label", ignore_columns="verified")
    assert found.labels.tolist() == [[1, 1], [1, 1]]
    # Not every image has every label, so the rows may say what is present.
    text = text.replace("b.jpg,cat,0\n", "")
    assert place.read(text, label_column="label").labels.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("name", ["annotator", "rad_id", "Worker ID"])
def test_labels_of_several_people_are_decided(place, name):
    text = f"filename,label,{name}\na.jpg,cat,1\na.jpg,dog,2\nb.jpg,dog,1\n"
    message = place.refusal(text, label_column="label")
    assert "may be votes" in message and f"data.ignore_columns={name!r}" in message
    found = place.read(text, label_column="label", ignore_columns=name)
    assert found.labels.tolist() == [[1, 1], [0, 1]]
    one = text.replace("dog,2", "dog,1")
    assert place.read(one, label_column="label").labels.tolist() == [[1, 1], [0, 1]]
    wide = f"filename,cat,{name}\na.jpg,1,0\nb.jpg,0,1\n"
    assert f"{name!r} may be no class" in place.refusal(wide)


@pytest.mark.parametrize(
    ("cells", "mark"),
    [
        (("cat/dog", "cat"), "'/'"),
        (("cat+dog", "dog"), "'+'"),
        (("cat & dog", "dog"), "'&'"),
        (("cat\ndog", "bird"), r"'\n'"),
    ],
)
def test_other_delimiters_are_decided(place, cells, mark):
    text = f'filename,x\na.jpg,"{cells[0]}"\nb.jpg,"{cells[1]}"\n'
    message = place.refusal(text, label_column="x")
    assert f"set data.label_delimiter={mark}" in message and "'~'" in message
    mark = mark.strip("'").replace(r"\n", "\\n")
    found = place.read(text, label_column="x", label_delimiter=mark)
    assert {"cat", "dog"} <= set(found.classes)
    text = "filename,x\na.jpg,cat and dog\nb.jpg,cat\n"
    assert "write a mark such as ';' between them" in place.refusal(text, label_column="x")


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        (("cat:0.9;dog:0.1", "cat:0.2"), {"label_delimiter": ";"}),
        (("cat=1;dog=0", "cat=0;dog=1"), {"label_delimiter": ";"}),
        (("cat (0.9)", "dog (0.4)"), {"label_column": "labels"}),
        (("[0.9, 0.1]", "[0.2, 0.8]"), {}),
        (("[0.9, 0.1]", "[0.2, 0.8]"), {"label_delimiter": ","}),
        (("101", "011"), {"label_column": "labels"}),
        (("3.5", "2.25"), {"label_column": "labels"}),
    ],
)
def test_values_are_no_names_of_classes(place, cells, options):
    text = f'filename,labels\na.jpg,"{cells[0]}"\nb.jpg,"{cells[1]}"\n'
    message = place.refusal(text, **options)
    assert "not names of classes; write one column for each class" in message


@pytest.mark.parametrize("cells", [("3", "7"), ("10", "11"), ("v1.5", "v2"), ("age: 3", "age: 4")])
def test_these_are_names_of_classes(place, cells):
    text = f"filename,x,n\na.jpg,{cells[0]},5\nb.jpg,{cells[1]},6\n"
    delimiter = "~" if " " in cells[0] else ""
    assert place.read(text, label_column="x", label_delimiter=delimiter).classes == cells


@pytest.mark.parametrize("cell", ["frozenset({'cat'})", "array(['cat'])"])
def test_lists_as_other_objects_are_refused(place, cell):
    text = f'filename,labels\na.jpg,"{cell}"\n'
    for options in ({"label_column": "labels"}, {"label_delimiter": ";"}):
        assert "is no list of labels" in place.refusal(text, **options)


def test_an_empty_set_is_no_label(place):
    found = place.read("filename,labels\na.jpg,\"{'cat'}\"\nb.jpg,set()\n")
    assert found.classes == ("cat",) and found.labels.tolist() == [[1], [0]]


def test_confidences_that_are_empty_are_unknown(place):
    text = long("confidence", ["1", "0", "", "1"])
    found = place.read(text, label_column="label")
    assert found.labels.tolist() == [[1, 0], [UNKNOWN, 1]]
