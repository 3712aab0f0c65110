"""Cells of class columns: marks, words and percentages, empty cells, and columns of splits."""

import pytest
from label_place import Place

from mlcls_jax.data.label_table import UNKNOWN

LABELS = [[0, 1], [1, 0]]


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    place.add("a.jpg", "b.jpg", "c.jpg")
    return place


def table(rows, header="filename,cat,dog") -> str:
    lines = [f"{name},{','.join(map(str, row))}" for name, row in zip("abc", rows, strict=False)]
    return "\n".join([header, *lines]) + "\n"


@pytest.mark.parametrize(
    ("no", "yes"),
    [
        ("✗", "✓"),
        ("absent", "present"),
        ("negative", "Positive"),
        ("FALSCH", "WAHR"),
        ("nein", "ja"),
        ("0%", "100 %"),
    ],
)
def test_words_and_marks_for_1_and_0(place, no, yes):
    found = place.read(table([[no, yes], [yes, no]]))
    assert found.labels.tolist() == LABELS and found.targets is None
    assert ("percentages" if "%" in no else f"{yes!r} is 1") in place.note(found)


def test_percentages_are_shares(place):
    found = place.read(table([["12.5%", "100 %"], ["0%", "25 %"]]))
    assert found.train_labels.tolist() == [[0.125, 1], [0, 0.25]]
    assert "percentages are shares" in place.note(found)
    assert "'101%' is not a label" in place.refusal(table([["101%", "5%"], ["0%", "25%"]]))


@pytest.mark.parametrize("mark", ["1", "x", "X", "✓", "yes"])
@pytest.mark.parametrize("empty", ["", "NaN"])
def test_empty_cells_without_zeros_are_decided(place, mark, empty):
    text = table([[empty, mark], [mark, empty]])
    if mark.lower() == "x" and empty:
        assert f"{mark!r} is not a label" in place.refusal(text)
        return
    message = place.refusal(text)
    assert "data.empty_cells='absent'" in message and "data.empty_cells='unknown'" in message
    found = place.read(text, empty_cells="absent")
    assert found.labels.tolist() == LABELS and "an empty cell is absent" in place.note(found)
    found = place.read(text, empty_cells="unknown")
    assert found.labels.tolist() == [[UNKNOWN, 1], [1, UNKNOWN]]


def test_empty_cells_next_to_zeros_are_unknown(place):
    text = table([["", 1], [1, 0]])
    assert place.read(text).labels.tolist() == [[UNKNOWN, 1], [1, 0]]
    assert place.read(text, empty_cells="absent").labels.tolist() == LABELS
    text = table([["-1", 1], [1, ""]])
    assert "data.empty_cells" not in place.refusal(text)
    found = place.read(text, minus_one="absent")
    assert found.labels.tolist() == [[0, 1], [1, UNKNOWN]]


def test_an_x_next_to_other_marks_is_refused(place):
    assert "'x' is not a label" in place.refusal(table([["x", "✓"], ["✓", "x"]]))


@pytest.mark.parametrize(
    ("value", "hint"), [("3", "if it is a count"), ("often", "label_column='cat'")]
)
def test_the_message_fits_the_cell(place, value, hint):
    assert hint in place.refusal(table([[value, 1], [1, 0]]))


@pytest.mark.parametrize("name", ["Split", "phase"])
def test_splits_in_another_column(place, name):
    text = table([[1, 0, "train"], [0, 1, "test"]], f"filename,cat,dog,{name}")
    assert f"data.split_column={name!r}" in place.refusal(text)
    text = table([["cat", "train"], ["dog", "test"]], f"filename,label,{name}")
    message = place.refusal(text, label_column="label")
    assert f"column {name!r} holds 'test', 'train'; set data.split_column={name!r}" in message
    assert place.read(text, label_column="label", split_column=name).splits == ("train", "test")
    assert place.read(text, label_column="label", ignore_columns=name).splits is None


@pytest.mark.parametrize("nothing", ["", "NaN", "None"])
def test_a_group_that_is_not_known_is_none(place, nothing):
    text = table([[1, 0, nothing], [0, 1, nothing], [1, 1, "2.0"]], "filename,cat,dog,patient")
    assert place.read(text, group_column="patient").groups == ("", "", "2")
