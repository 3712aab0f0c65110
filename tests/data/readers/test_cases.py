"""Label files in the layouts of public reports and of other programs, each with the right labels.

Three images, with the labels of LABELS, are written in each layout.
"""

import csv
import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_place import Place

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_labels import labels_csv

CLASSES = ("cat", "dog", "person")
NAMES = ("000001.jpg", "000002.jpg", "000003.jpg")
LABELS = [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
PRESENT = [["dog", "person"], ["cat"], []]
SIGNS = [[2 * value - 1 for value in row] for row in LABELS]
PLAIN = "filename,cat,dog,person\n000001.jpg,0,1,1\n000002.jpg,1,0,0\n000003.jpg,0,0,0\n"


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    place.add(*NAMES)
    return place


def table(rows, header=("filename", *CLASSES), names=NAMES) -> str:
    lines = [header, *((name, *row) for name, row in zip(names, rows, strict=True))]
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def listed(cell, header=("filename", "labels")) -> str:
    """A file with the labels of each image in one cell."""
    return table([[cell(names)] for names in PRESENT], header)


def check(found: LabelTable, names=NAMES) -> None:
    assert found.classes == CLASSES
    assert found.filenames == tuple(names)
    assert found.labels.tolist() == LABELS


def test_a_file_as_documented_has_no_note(place):
    found = place.read(PLAIN)
    check(found)
    assert found.notes == ()


def test_minus_one_without_zero_is_decided(place):
    text = table(SIGNS, ("image_id", *CLASSES))
    message = place.refusal(text, filename_column="image_id")
    assert "data.minus_one='absent'" in message and "data.minus_one='unknown'" in message
    found = place.read(text, filename_column="image_id", minus_one="absent")
    check(found)
    assert place.note(found) == "-1 is absent"
    unknown = place.read(text, filename_column="image_id", minus_one="unknown")
    assert set(np.unique(unknown.labels)) == {UNKNOWN, 1}


def test_minus_one_next_to_zero_is_unknown(place):
    found = place.read(table([[0, 1, -1], [1, 0, 0], [0, -1, 0]]))
    assert found.labels.tolist() == [[0, 1, UNKNOWN], [1, 0, 0], [0, UNKNOWN, 0]]
    found = place.read(table([[0, 1, -1], [1, "", 0], [0, -1, 0]]), minus_one="absent")
    assert found.labels.tolist() == [[0, 1, 0], [1, UNKNOWN, 0], [0, 0, 0]]


def test_a_count_and_columns_of_spaces(place):
    lines = [
        f"{name} " + " ".join(f"{value:2d}" for value in row)
        for name, row in zip(NAMES, SIGNS, strict=True)
    ]
    text = "\n".join(["3", " ".join(CLASSES) + " ", *lines]) + "\n"
    assert "data.minus_one" in place.refusal(text)
    found = place.read(text, minus_one="absent")
    check(found)
    assert "separated by spaces; its header is in row 2; the first column has no header" in (
        place.note(found)
    )
    assert "row 4, column 'filename'" in place.refusal(
        text.replace(NAMES[1], "x.jpg"), minus_one="absent"
    )


@pytest.mark.parametrize("fields", [{}, {"label_delimiter": ","}, {"label_delimiter": ";"}])
@pytest.mark.parametrize(
    "cell",
    [
        lambda names: f'"{names!r}"',
        lambda names: '"[' + ",".join(f'""{name}""' for name in names) + ']"',
        lambda names: f'"{tuple(names)!r}"',
        lambda names: f'"{set(names)!r}"' if names else "",
        lambda names: f'"{np.array(names)}"' if names else "[]",  # quotes, without commas
        lambda names: f'"[{", ".join(names)}]"',
    ],
    ids=["Python", "JSON", "tuple", "set", "NumPy", "no quotes"],
)
def test_lists_in_a_cell(place, cell, fields):
    found = place.read(listed(cell), **fields)
    check(found)
    assert place.note(found) == "the cells of column 'labels' are lists"


def test_lists_and_other_cells_are_not_mixed(place):
    text = "filename,labels\n000001.jpg,\"['dog']\"\n000002.jpg,cat\n"
    assert "row 3, column 'labels': 'cat' is no list" in place.refusal(text, label_delimiter=",")


@pytest.mark.parametrize(
    ("delimiter", "written"), [(",", ", "), (";", "; "), ("|", "|"), (" ", " ")]
)
def test_labels_with_a_delimiter(place, delimiter, written):
    check(place.read(listed(lambda names: f'"{written.join(names)}"'), label_delimiter=delimiter))


@pytest.mark.parametrize("empty", ["nan", "NaN", "None", "N/A", "null"])
def test_nan_is_no_label(place, empty):
    found = place.read(listed(lambda names: ";".join(names) or empty), label_delimiter=";")
    check(found)
    assert f"{empty!r} in column 'labels' is no label" in place.note(found)


@pytest.mark.parametrize(
    "cell", ["[{'name': 'cat'}]", "[['cat'], ['dog']]", "{'cat': 1}", "['cat'"]
)
def test_what_is_no_list_of_labels_is_refused(place, cell):
    message = place.refusal(f'filename,labels\n000001.jpg,"{cell}"\n', label_delimiter=",")
    assert "row 2, column 'labels'" in message and "is no list of labels" in message


@pytest.mark.parametrize(
    "cells",
    [("[0, 1, 1]", "[1, 0, 0]"), ("0 1 1", "1 0 0"), ("[0. 1.]", "[1. 1.]"), ("[0 1]", "[1 1]")],
)
def test_a_value_for_each_class_in_one_cell_is_refused(place, cells):
    text = f'filename,labels\n000001.jpg,"{cells[0]}"\n000002.jpg,"{cells[1]}"\n'
    assert "one column for each class" in place.refusal(text, label_delimiter=" ")


def test_labels_that_are_said_to_be_absent_are_refused(place):
    text = "filename,label,Confidence\n000001.jpg,dog,1\n000001.jpg,cat,0\n"
    options = {"label_column": "label"}
    found = place.read(text, **options)
    assert found.labels.tolist() == [[0, 1]]
    assert "column 'Confidence' says whether a label is in the image" in place.note(found)
    found = place.read(text, **options, ignore_columns="Confidence")
    assert found.labels.tolist() == [[1, 1]]


CONFIDENCES = """ImageID,Source,LabelName,Confidence
000001,verification,/m/dog,1
000001,verification,/m/cat,0
000002,verification,/m/cat,1
000002,crowd,/m/cat,1
000003,verification,/m/dog,0
"""
OPEN_IMAGES = {"filename_column": "ImageID", "label_column": "LabelName"}


def test_labels_with_confidences(place):
    found = place.read(CONFIDENCES, **OPEN_IMAGES)
    assert found.classes == ("/m/cat", "/m/dog") and found.targets is None
    assert found.filenames == NAMES
    assert found.labels.tolist() == [[0, 1], [1, UNKNOWN], [UNKNOWN, 0]]
    for part in ("labels without a row are unknown", "5 rows of 3 images are joined"):
        assert part in place.note(found)
    message = place.refusal(CONFIDENCES + "000003,crowd,/m/dog,1\n", **OPEN_IMAGES)
    assert "rows 6 and 7" in message and "'000003.jpg', with different values" in message


def test_soft_confidences(place):
    found = place.read(CONFIDENCES.replace("dog,1", "dog,0.25"), **OPEN_IMAGES)
    assert found.targets is not None
    assert found.targets.tolist() == [[0, 0.25], [1, UNKNOWN], [UNKNOWN, 0]]
    assert found.labels.tolist() == [[0, 0], [1, UNKNOWN], [UNKNOWN, 0]]


def test_confidences_without_a_zero_are_decided(place):
    text = "filename,label,Confidence\n000001.jpg,dog,0.9\n000002.jpg,cat,0.6\n"
    message = place.refusal(text, label_column="label")
    assert "data.confidence_column='Confidence'" in message
    assert "data.ignore_columns='Confidence'" in message
    found = place.read(text, label_column="label", confidence_column="Confidence")
    assert found.labels.tolist() == [[UNKNOWN, 1], [1, UNKNOWN]]
    assert np.allclose(found.train_labels, [[-1, 0.9], [0.6, -1]])
    found = place.read(text, label_column="label", ignore_columns="Confidence")
    assert found.labels.tolist() == [[0, 1], [1, 0]]
    assert "'Confidence'" in place.note(found)
    assert "data.confidence_column" in place.refusal(
        text, label_column="label", confidence_column="certainty"
    )


def test_two_columns_of_confidences_are_decided(place):
    text = "filename,label,confidence,present\n000001.jpg,dog,0.9,0\n000002.jpg,cat,0,1\n"
    assert "'confidence', 'present' may each say" in place.refusal(text, label_column="label")
    found = place.read(text, label_column="label", confidence_column="present")
    assert found.labels.tolist() == [[UNKNOWN, 0], [1, UNKNOWN]]


def test_a_column_of_labels_needs_no_delimiter(place):
    found = place.read(
        "filename,label,n\n000001.jpg,dog,3\n000002.jpg,cat,4\n", label_column="label"
    )
    assert found.labels.tolist() == [[0, 1], [1, 0]]
    assert "each cell of column 'label' is one label" in place.note(found)
    text = "filename,x,y\n000001.jpg,\"['dog', 'cat']\",3\n000002.jpg,[],4\n"
    found = place.read(text, label_column="x")
    assert found.labels.tolist() == [[1, 1], [0, 0]]
    assert "the cells of column 'x' are lists" in place.note(found)


@pytest.mark.parametrize(
    ("cells", "mark"),
    [(("a;b", "c"), ";"), (("a|b", "c|d"), "|"), (("a, b", ""), ","), (("a b", "a"), " ")],
)
def test_a_delimiter_that_is_needed_is_named(place, cells, mark):
    text = f'filename,x,n\n000001.jpg,"{cells[0]}",3\n000002.jpg,"{cells[1]}",4\n'
    assert f"set data.label_delimiter={mark!r}" in place.refusal(text, label_column="x")


def test_labels_of_several_words_need_no_delimiter(place):
    text = "filename,x,n\n000001.jpg,no finding,3\n000002.jpg,pleural thickening,4\n"
    assert place.read(text, label_column="x").classes == ("no finding", "pleural thickening")


SOFT = [[0.3, 1, "0.5"], [".75", 0, "1e-2"], ["", "0,499", -1]]
TARGETS = np.float32([[0.3, 1, 0.5], [0.75, 0, 0.01], [-1, 0.499, -1]])


def test_soft_labels(place):
    lines = ["filename;cat;dog;person"]
    lines += [";".join(map(str, [name, *row])) for name, row in zip(NAMES, SOFT, strict=True)]
    found = place.read("\n".join(lines) + "\n")
    assert found.targets is not None and found.targets.dtype == np.float32
    np.testing.assert_array_equal(found.targets, TARGETS)
    np.testing.assert_array_equal(found.train_labels, TARGETS)
    assert found.labels.dtype == np.int8
    assert found.labels.tolist() == [[0, 1, 1], [1, 0, 0], [UNKNOWN, 0, UNKNOWN]]
    assert "soft labels from 0 to 1 in 'cat', 'dog', 'person', of which metrics take 0.5" in (
        place.note(found)
    )
    np.testing.assert_allclose(found.mean_targets, [0.525, 1.499 / 3, 0.255], rtol=1e-6)
    part = found.take([2, 0]).with_classes(("dog", "cat", "person"), "a", "b")
    np.testing.assert_array_equal(part.train_labels, TARGETS[[2, 0]][:, [1, 0, 2]])
    again = place.read(labels_csv(found))
    np.testing.assert_array_equal(again.train_labels, TARGETS)
    assert again.labels.tolist() == found.labels.tolist()


def test_hard_labels_have_no_targets(place):
    found = place.read(PLAIN)
    assert found.targets is None and found.train_labels is found.labels
    np.testing.assert_array_equal(found.mean_targets, found.frequencies)


@pytest.mark.parametrize("value", ["1.01", "32", "-0.5", "0.3.1", "1e1", "nan5"])
def test_numbers_that_are_no_soft_labels(place, value):
    rows = [[0.25, 1, 0.5], [0.75, value, 0.5], [0, 0.5, 0]]
    message = place.refusal(table(rows))
    assert f"row 3, column 'dog': {value!r} is not a label" in message


@pytest.mark.parametrize("name", ["confidence", "label_score", "XMin", "blur", "other"])
def test_numbers_that_may_be_no_labels_are_decided(place, name):
    text = table(
        [[*row, 0.5 / (i + 1)] for i, row in enumerate(LABELS)], ("filename", *CLASSES, name)
    )
    message = place.refusal(text)
    assert f"{name!r} hold numbers between 0 and 1" in message
    assert f"data.ignore_columns={name!r}" in message and "data.label_columns" in message
    check(place.read(text, ignore_columns=name))
    found = place.read(text, label_columns="*")
    assert found.classes == (*CLASSES, name) and found.targets is not None
    assert found.targets[:, 3].tolist() == [0.5, 0.25, np.float32(0.5 / 3)]


def test_the_wrong_delimiter_is_named(place):
    text = listed(lambda names: f'"{", ".join(names)}"')
    assert "set data.label_delimiter=','" in place.refusal(text, label_delimiter=" ")
    text = "filename,labels\n000001.jpg,cat;dog\n000002.jpg,cat|dog\n"
    assert "row 3, column 'labels': 'cat|dog' lists" in place.refusal(text, label_delimiter=";")


def test_one_column_of_labels_among_others(place):
    place.add("images_001/images/x.png", "images_002/images/y.png")
    text = (
        "Image Index,Finding Labels,Patient Age,\nx.png,dog|cat,58,\ny.png,No Finding,58,\n"
        "000001.jpg,cat,7,\n"
    )
    columns = {"filename_column": "Image Index", "label_column": "Finding Labels"}
    found = place.read(text, **columns, label_delimiter="|")
    assert found.classes == ("No Finding", "cat", "dog")
    assert found.labels.tolist() == [[0, 1, 1], [1, 0, 0], [0, 1, 0]]
    assert found.filenames[:2] == ("images_001/images/x.png", "images_002/images/y.png")
    for part in ("column 4, without a name", "'Patient Age'", "'x.png' for 'images_001/images/x"):
        assert part in place.note(found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ignore_columns", "Sex,Age"),
        ("ignore_columns", "[SA]*"),
        ("label_columns", "cat, dog ,person"),
        ("label_columns", "?[ao]*,person"),
    ],
)
def test_columns_are_chosen(place, field, value):
    rows = [["Male", 40 + i, *row] for i, row in enumerate(LABELS)]
    text = table(rows, ("Path", "Sex", "Age", *CLASSES))
    message = place.refusal(text, filename_column="Path")
    assert "'Sex', 'Age' holds no labels, set data.ignore_columns='Sex,Age'" in message
    assert "data.label_columns" in message
    found = place.read(text, filename_column="Path", **{field: value})
    check(found)
    assert place.note(found) == "columns that are not used: 'Sex', 'Age'"


def test_names_of_columns_with_commas_stand_in_quotes(place):
    rows = [["Male", "red", *row] for row in LABELS]
    text = table(rows, ("Path", "Sex", '"hair, skin"', *CLASSES))
    message = place.refusal(text, filename_column="Path")
    assert "set data.ignore_columns='Sex,\"hair, skin\"' or" in message
    check(place.read(text, filename_column="Path", ignore_columns='Sex, "hair, skin"'))


def test_a_chosen_column_that_does_not_exist(place):
    for field in ("label_columns", "ignore_columns"):
        message = place.refusal(PLAIN, **{field: "cat,cow*"})
        assert f"data.{field} has 'cow*', which is none of the columns 'cat', 'dog'" in message


def test_a_chosen_column_may_contain_a_comma(place):
    text = 'filename,"dog, big",note\n000001.jpg,1,x\n'
    assert place.read(text, label_columns="dog, big").classes == ("dog, big",)


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 2, 3), (7, 90, 12)])
def test_a_column_that_counts_rows_is_not_used(place, name, numbers):
    lines = PLAIN.splitlines()
    cells = [name, *map(str, numbers)]
    text = "\n".join(f"{cell},{line}" for cell, line in zip(cells, lines, strict=True))
    found = place.read(text)
    check(found)
    assert "is not used" in place.note(found)


def test_a_column_without_a_name_that_holds_something_is_refused(place):
    assert "column 3 of 3 has no name" in place.refusal("filename,dog,\n000001.jpg,1,0\n")


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (("False", "True"), "'False' is 0; 'True' is 1"),
        (("no", "yes"), "'no' is 0; 'yes' is 1"),
        (("0.0", "1.0"), ""),
        (("0.000000000000000000e+00", "1.000000000000000000e+00"), ""),
    ],
)
def test_other_words_for_1_and_0(place, words, note):
    found = place.read(table([[words[value] for value in row] for row in LABELS]))
    check(found)
    assert place.note(found) == note


def test_signs_of_one(place):
    text = table([["+1" if value else "-1" for value in row] for row in LABELS])
    check(place.read(text, minus_one="absent"))


def test_nan_is_unknown(place):
    found = place.read(table([[0, 1, "NaN"], [1, "", 0], [0, 0, "<NA>"]]))
    assert found.labels.tolist() == [[0, 1, UNKNOWN], [1, UNKNOWN, 0], [0, 0, UNKNOWN]]
    assert place.note(found) == "'<NA>' is unknown; 'NaN' is unknown"


@pytest.mark.parametrize("fields", [{}, {"label_delimiter": ","}])
def test_rows_of_one_label_are_joined(place, fields):
    text = "filename,label\n000001.jpg,dog\n000002.jpg,cat\n000001.jpg,person\n000001.jpg,dog\n"
    found = place.read(text, **fields)
    assert found.filenames == NAMES[:2]
    assert found.labels.tolist() == LABELS[:2]
    assert "4 rows of 2 images are joined" in place.note(found)


@pytest.mark.parametrize("label", ["no", "f", "none", "true"])
def test_labels_may_be_words_for_1_and_0(place, label):
    found = place.read(f"filename,label\n000001.jpg,dog\n000001.jpg,{label}\n")
    assert found.classes == tuple(sorted(["dog", label])) and found.labels.tolist() == [[1, 1]]


def test_rows_of_boxes_are_joined(place):
    text = (
        "filename,width,class,xmin\n000001.jpg,9,dog,1\n000001.jpg,9,person,3\n000002.jpg,9,cat,2\n"
    )
    found = place.read(text, label_column="class", label_delimiter=",")
    assert found.filenames == NAMES[:2] and found.labels.tolist() == LABELS[:2]


def test_words_in_a_column_that_is_not_called_label_are_refused(place):
    assert "'often' is not a label" in place.refusal("filename,dog\n000001.jpg,often\n")
    message = place.refusal("filename,label\n000001.jpg,dog cat\n000002.jpg,dog\n")
    assert "set data.label_delimiter" in message


def test_identical_rows_count_once_and_others_are_named(place):
    found = place.read(PLAIN + "000001.jpg,0,1,1\n./000001.jpg,0,1,1\n")
    check(found)
    assert place.note(found) == "2 rows repeat an image with the same labels"
    message = place.refusal(PLAIN + "000001.jpg,0,1,0\n")
    assert "rows 2 and 5" in message and "'000001.jpg', with different labels" in message
    text = "filename,labels\n000001.jpg,dog;cat\n000001.jpg,dog\n"
    assert "rows 2 and 3" in place.refusal(text, label_delimiter=";")
    text = "filename,dog,split\n000001.jpg,1,train\n000001.jpg,1,val\n"
    assert "in train and val" in place.refusal(text)


@pytest.mark.parametrize(
    "values", [("True", "False"), ("true", "false"), ("1", "0"), ("1.0", "0.0")]
)
@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("is_valid", ("val", "train")),
        ("isVal", ("val", "train")),
        ("is_test", ("test", "train")),
        ("is_train", ("train", "val")),
    ],
)
def test_flags_as_splits(place, values, name, splits):
    cells = [values[0], values[1], values[1]]
    rows = [[" ".join(names), cell] for names, cell in zip(PRESENT, cells, strict=True)]
    text = table(rows, ("fname", "labels", name))
    columns = {"filename_column": "fname", "label_column": "labels", "label_delimiter": " "}
    found = place.read(text, split_column=name, **columns)
    check(found)
    assert found.splits == (splits[0], splits[1], splits[1])
    assert f"in column {name!r}, " in place.note(found)


def test_folds_are_decided(place):
    text = table([[*row, i] for i, row in enumerate(LABELS)], ("filename", *CLASSES, "fold"))
    assert "set data.ignore_columns='fold'" in place.refusal(text)
    assert "set data.split_column='fold'" in place.refusal(text)
    assert "set data.val_values" in place.refusal(text, split_column="fold")
    found = place.read(text, split_column="fold", val_values="1")
    check(found)
    assert found.splits == ("train", "val", "train")
    found = place.read(text, split_column="fold", val_values="1", test_values="2")
    assert found.splits == ("train", "val", "test")
    assert "1 is val, 2 is test, others are train" in place.note(found)
    message = place.refusal(text, split_column="fold", val_values="1,5")
    assert "column 'fold' has no '5', only '0', '1', '2'" in message
    assert "no column 'split'" in place.refusal(text, val_values="1")


def test_flags_in_a_column_whose_name_does_not_tell(place):
    text = table([[*row, 1] for row in LABELS], ("filename", *CLASSES, "split"))
    assert "'1' is not a split" in place.refusal(text)


@pytest.mark.parametrize("name", ["is_valid", "Fold", "sex", "Age", "id", "patient_id", "Val"])
def test_columns_that_are_rarely_classes_are_named(place, name):
    text = table([[*row, i % 2] for i, row in enumerate(LABELS)], ("filename", *CLASSES, name))
    message = place.refusal(text)
    for part in (
        f"{name!r} may be no class",
        f"data.split_column={name!r}",
        f"data.ignore_columns={name!r}",
        "data.label_columns",
    ):
        assert part in message
    check(place.read(text, ignore_columns=name))
    assert place.read(text, label_columns="*").classes == (*CLASSES, name)


@pytest.mark.parametrize("name", ["train", "person", "Valid driver", "young", "bridge"])
def test_these_are_classes(place, name):
    assert place.read(f"filename,{name}\n000001.jpg,1\n000002.jpg,0\n").classes == (name,)


@pytest.mark.parametrize(
    ("mark", "words"),
    [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars"), ("  ", "spaces")],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators(place, mark, words, encoding):
    text = PLAIN.replace(",", mark).replace("\n", "\r\n").encode(encoding)
    found = place.read(text)
    check(found)
    assert f"its cells are separated by {words}" in place.note(found)


def test_commas_within_cells_of_another_table(place):
    text = "filename;labels\n000001.jpg;dog,person\n000002.jpg;cat\n000003.jpg;\n"
    check(place.read(text, label_delimiter=","))
    message = place.refusal("filename;dog;cat\n000001.jpg;1;0\n000002.jpg;1\n")
    assert "row 3 has 2 cells, but the header has 3" in message and "semicolons" in message
    message = place.refusal("filename;dog\n000001.jpg;1\n000002.jpg;1;0\n")
    assert "row 3 has 3 cells, but the header has 2" in message and "semicolons" in message


def test_the_line_of_a_spreadsheet(place):
    check(place.read("sep=;\n" + PLAIN.replace(",", ";")))


@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-16", "its text is UTF-16"),
        ("utf-16-le", "its text is UTF-16"),
        ("utf-16-be", "its text is UTF-16"),
        ("utf-32", "its text is UTF-32"),
        ("cp1252", "its text is Windows-1252"),
    ],
)
def test_encodings(place, encoding, note):
    place.add("été.jpg")
    found = place.read("filename,Château,Straße\nété.jpg,1,0\n000001.jpg,0,1\n".encode(encoding))
    assert found.classes == ("Château", "Straße")
    assert found.filenames == ("été.jpg", "000001.jpg")
    assert found.labels.tolist() == [[1, 0], [0, 1]]
    assert place.note(found) == note


@pytest.mark.parametrize(
    ("text", "encoding"), [("собака", "cp1251"), ("犬と猫", "shift-jis"), ("狗和猫", "gbk")]
)
def test_other_encodings_are_refused(place, text, encoding):
    message = place.refusal(f"filename,{text}\n000001.jpg,1\n".encode(encoding))
    assert "not UTF-8 text" in message and "save it as UTF-8" in message


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
        ("000004.JPG", "000004.jpg"),
        ("e\N{COMBINING ACUTE ACCENT}.jpg", "\N{LATIN SMALL LETTER E WITH ACUTE}.jpg"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}.jpg", "e\N{COMBINING ACUTE ACCENT}.jpg"),
        ("000004.png", "000004"),
        ("v1.5.jpg", "v1.5"),
        ("Q.jpg", "q"),
        ("sub/a.jpg", "sub\\a.jpg"),
        ("sub/a.jpg", "a.jpg"),
        ("sub/deep/a.jpg", "deep/a.jpg"),
        ("sub/a.jpg", "A"),
        ("a b.jpg", " a b.jpg "),
        ("sub/a.jpg", "images/sub/a.jpg"),
    ],
)
def test_file_names(place, on_disk, written):
    place.add(on_disk)
    found = place.read(f"filename,dog\n{written},1\n000001.jpg,0\n")
    assert [unicodedata.normalize("NFC", name) for name in found.filenames] == [
        unicodedata.normalize("NFC", name) for name in (on_disk, "000001.jpg")
    ]
    assert all(Path(path).is_file() for path in found.paths)


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
        (("a.jpg", "a.png"), "a"),
        (("A.jpg", "a.JPG"), "a.jpg"),
        (("x/a.jpg", "y/a.jpg"), "a.jpg"),
        (("x/a.jpg", "y/a.png"), "a"),
    ],
)
def test_two_candidates_are_named(place, on_disk, written):
    place.add(*on_disk)
    message = place.refusal(f"filename,dog\n{written},1\n")
    assert f"row 2, column 'filename': {written!r} may be" in message
    assert all(repr(name) in message for name in on_disk)


def test_the_column_of_file_names_is_suggested(place):
    message = place.refusal("id,image,dog\n7,000001.jpg,1\n")
    assert "no column 'filename'" in message and "data.filename_column, such as 'image'" in message


def test_a_spreadsheet_is_named(place):
    assert "save it as CSV" in place.refusal(b"PK\3\4" + bytes(99))


def test_an_exact_name_has_no_other_candidates(place):
    place.add("a.jpg", "A.jpg", "x/a.jpg")
    assert place.read("filename,dog\na.jpg,1\n").notes == ()


def test_absolute_paths_in_the_folder(place):
    names = [str(place.images / name) for name in NAMES]
    found = place.read(table(LABELS, names=names))
    check(found)
    assert place.note(found) == "3 absolute paths are in data.images"
    place.add("../outside.jpg")
    message = place.refusal(f"filename,dog\n{place.root / 'outside.jpg'},1\n")
    assert "is an absolute path" in message


@pytest.mark.parametrize(
    ("name", "file", "how"),
    [
        ("/home/ada/photos/a.jpg", "a.jpg", "paths of another folder"),
        ("C:\\photos\\sub\\b.jpg", "sub/b.jpg", "paths of another folder"),
        ("https://example.org/sub/b.jpg?size=2", "sub/b.jpg", "addresses"),
        ("https://example.org/my%20cat.jpg", "my cat.jpg", "addresses"),
        ("my%20cat.jpg", "my cat.jpg", "percent-encoded"),
        ("a.png", "a.jpg", "written with another extension"),
        ("sub/b.tif", "sub/b.jpg", "written with another extension"),
        ("7.jpg", "0007.jpg", "written with other leading zeros"),
        ("007", "0007.jpg", "written with other leading zeros"),
        ("7.0", "0007.jpg", "written with other leading zeros"),
        ("sub/12", "sub/0012.jpg", "written with other leading zeros"),
    ],
)
def test_names_that_can_mean_one_file(place, name, file, how):
    place.add("a.jpg", "my cat.jpg", "sub/b.jpg", "0007.jpg", "sub/0012.jpg", "0099.png")
    found = place.read(f"filename,dog\n{name},1\n")
    assert found.filenames == (file,)
    assert f"1 file names are {how}, such as" in place.note(found)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["/x/y/a.jpg"], "is an absolute path"),
        (["gs://bucket/x/a.jpg"], "download the images into it, or set data.images=gs://bucket/x"),
        (["https://x.org/y/a.jpg"], "is called like its end; download the images into it"),
        (["/x/b.jpg"], "may be 'part_1/b.jpg' or 'part_2/b.jpg'"),
        (["b.gif"], "may be 'part_1/b.jpg' or 'part_2/b.jpg'"),
        (["7"], "may be '007.jpg' or '07.jpg'"),
        (["/x/c.jpg", "/y/c.jpg"], "'/x/c.jpg' and '/y/c.jpg' would both be the image 'c.jpg'"),
        (["c.png", "c.jpg"], "'c.png' and 'c.jpg' would both be the image 'c.jpg'"),
        (["c.jpg", "c.png"], "'c.jpg' and 'c.png' would both be the image 'c.jpg'"),
        (["other/c.png"], "images are not in"),
        (["8.jpg"], "images are not in"),
    ],
)
def test_names_that_can_mean_two_files_or_none(place, names, words):
    place.add("part_1/b.jpg", "part_2/b.jpg", "07.jpg", "007.jpg", "c.jpg")
    rows = "".join(f"{name},1\n" for name in names)
    assert words in place.refusal(f"filename,dog\n{rows}")


@pytest.mark.parametrize(
    ("above", "row"),
    [("\n", 2), ("# made by a tool, version 2\n", 2), ("Labels of the spring\n\n", 3)],
)
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_lines_above_the_header(place, above, row, mark):
    found = place.read(above + table(LABELS).replace(",", mark))
    check(found)
    assert f"its header is in row {row}" in place.note(found)
    message = place.refusal(above + table(LABELS).replace("1", "7", 1).replace(",", mark))
    assert f"row {row + 1}, column" in message


def test_a_table_without_the_header_in_its_first_rows_is_refused(place):
    assert "no column 'filename'" in place.refusal("image,cat\na.jpg,1\nfilename,0\n")


def test_the_header_once_more(place):
    text = table(LABELS)
    header = text.splitlines(keepends=True)[0]
    found = place.read(text + header + "\n" + header)
    check(found)
    row = text.count("\n") + 1
    assert f"rows that repeat the header, the first in row {row}, are not used" in place.note(found)


def test_empty_cells_after_the_last_column(place):
    header, *rows = table(LABELS).splitlines()
    found = place.read("\n".join([header, *(f"{row},, " for row in rows)]))
    check(found)
    assert place.note(found) == "empty cells after its last column are not used"
    message = place.refusal(
        "\n".join([header, *(f"{row},," for row in rows[:-1]), rows[-1] + ",1"])
    )
    assert "row 2 has" in message


def test_a_row_with_too_many_cells_before_a_cell_that_is_too_long(place):
    message = place.refusal(f"filename,cat\na.jpg,1,\nb.jpg,{'1' * 200_000}\n")
    assert "row 2 has 3 cells" in message


@pytest.mark.parametrize(("second", "why"), [("cat.1", "pandas adds"), ("Cat", "only in case")])
def test_columns_that_may_be_one_class(place, second, why):
    text = f"filename,cat,{second}\na.jpg,1,0\nb.jpg,0,1\n"
    place.add("a.jpg", "b.jpg")
    message = place.refusal(text)
    assert f"columns 'cat' and {second!r} may be one class" in message
    assert why in message
    assert place.read(text, label_columns="*").classes == ("cat", second)
    assert place.read(text, ignore_columns=second).classes == ("cat",)


def test_a_column_beside_lists_of_labels_may_be_their_confidence(place):
    text = """filename,labels,certainty\na.jpg,"['cat', 'dog']",yes\nb.jpg,['cat'],no\n"""
    place.add("a.jpg", "b.jpg")
    assert "column 'certainty' may say whether a label" in place.refusal(
        text, label_column="labels"
    )
    found = place.read(text, label_column="labels", ignore_columns="certainty")
    assert found.labels.tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("sign", ["-", "?", "--"])
def test_a_label_that_is_only_a_sign(place, sign):
    message = place.refusal(f"filename,labels\na.jpg,{sign}\nb.jpg,cat\n")
    assert f"the label {sign!r} may stand for no label" in message


def test_hidden_files_are_no_candidates(place):
    place.add("._a.jpg", ".trash/a.jpg", "sub/a.jpg")
    assert place.read("filename,dog\na.jpg,1\n").filenames == ("sub/a.jpg",)


def test_missing_images_are_skipped_if_asked(place):
    (place.images / NAMES[1]).unlink()
    message = place.refusal(PLAIN)
    assert "1 of 3 images are not in" in message and "data.on_bad_image='skip'" in message
    skip = {"on_bad_image": "skip"}
    message = place.refusal(PLAIN, **skip)
    assert "raise data.max_bad_fraction, which is 0.01" in message
    found = place.read(PLAIN, **skip, max_bad_fraction=0.5)
    check(found)  # readers of images skip it, and list it
    assert place.note(found) == "1 of 3 images do not exist and are skipped: '000002.jpg'"
    for name in NAMES[::2]:
        (place.images / name).unlink()
    assert "3 of 3 images" in place.refusal(PLAIN, **skip, max_bad_fraction=0.99)


# Names of classes that are no labels of a class, such as 1.
WORDS = st.from_regex("[abcdeé][abcdeé ÖßXYZ01]{0,4}[XZ01]", fullmatch=True)
SPELLINGS = [("0", "1"), ("0.0", "1.0"), ("False", "True"), ("no", "yes")]


@st.composite
def tables(draw) -> tuple[dict[str, dict[str, int]], str]:
    """What a table means, label by image and class, and the table in some layout."""
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True))
    classes = draw(st.lists(WORDS, min_size=1, max_size=4, unique_by=str.casefold))
    meaning = {name: {label: draw(st.integers(0, 1)) for label in classes} for name in names}
    file = {
        name: draw(st.sampled_from([f"{name}.jpg", name, f"{name.upper()}.JPG"])) for name in names
    }
    kind = draw(st.sampled_from(["columns", "lists", "delimited", "rows"]))
    if kind == "columns":
        no, yes = draw(st.sampled_from(SPELLINGS))
        rows = [[file[x], *(yes if v else no for v in meaning[x].values())] for x in names]
        header = ["filename", *classes]
    else:
        present = {x: [label for label, value in meaning[x].items() if value] for x in names}
        cells = {
            "lists": lambda x: [repr(present[x])],
            "delimited": lambda x: ["; ".join(present[x])],
        }
        cells["rows"] = lambda x: present[x] or [""]
        rows = draw(st.permutations([[file[x], cell] for x in names for cell in cells[kind](x)]))
        header = ["filename", "labels"]
    if draw(st.booleans()):
        header, rows = ["", *header], [[str(i), *row] for i, row in enumerate(rows)]
    text = io.StringIO()
    csv.writer(text, delimiter=draw(st.sampled_from(",;\t|"))).writerows([header, *rows])
    return meaning, text.getvalue()


@settings(deadline=None, max_examples=150)
@given(
    tables(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    st.sampled_from(["", ";"]),
)
def test_a_table_means_the_same_in_every_layout(tmp_path_factory, table, encoding, delimiter):
    meaning, text = table
    place = Place(tmp_path_factory.mktemp("table"))
    place.add(*(f"{name}.jpg" for name in "abcdefgh"))
    try:
        found = place.read(text.encode(encoding), label_delimiter=delimiter)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    read = {
        Path(name).stem: {
            label for label, value in zip(found.classes, row, strict=True) if value == 1
        }
        for name, row in zip(found.filenames, found.labels.tolist(), strict=True)
    }
    assert read == {name: {x for x, v in labels.items() if v} for name, labels in meaning.items()}
