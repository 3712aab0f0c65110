"""A data card in words: silent about what is usual, and every finding in a line."""

from dataclasses import replace

from mlcls_jax.data.card.data_card import DataCard, from_json, to_json
from mlcls_jax.data.card.describe import is_shortened, rows, warnings
from mlcls_jax.data.card.file_facts import FileFacts
from mlcls_jax.data.card.label_facts import LabelFacts

FILES = FileFacts(
    duplicates=[],
    contradictions=[],
    images_compared=100,
    images_read=100,
    kinds={"JPEG RGB": 100},
    bits={"8": 100},
    ranges={"width": [300, 300, 300], "height": [200, 240, 480], "bytes": [3000, 5000, 1_200_000]},
    nearly_black=[],
    constant=[],
    unreadable=[],
)
LABELS = LabelFacts(
    splits={
        "train": {"images": 75, "positive": 100, "unknown": 0},
        "val": {"images": 25, "positive": 50, "unknown": 0},
    },
    positives={"cat": {"train": 60, "val": 30}, "dog": {"train": 40, "val": 20}},
    same_labels=[],
    contained=[],
    images_compared=100,
)
CARD = DataCard(notes=[], warnings=[], labels=LABELS, files=FILES)


def with_files(**fields) -> DataCard:
    return replace(CARD, files=replace(FILES, **fields))


def test_usual_data_have_three_rows_and_no_warning():
    assert rows(CARD) == {
        "labels": "2 classes, 1.50 positive an image",
        "files": "JPEG RGB; 3.0 kB to 1.2 MB (median 5.0 kB)",
        "pixels": "width 300, height 200 to 480 (median 240)",
    }
    assert warnings(CARD) == [] and not is_shortened(CARD)


def test_a_sample_is_said():
    found = rows(with_files(images_read=64, images_compared=80))
    assert found["read"] == "64 of 100 images"
    assert found["compared"] == "80 of 100 files, for duplicates"


def test_missing_files_are_not_called_a_sample():
    gone = [["train", "a.jpg", "the file does not exist"]]
    found = rows(with_files(images_compared=99, unreadable=gone))
    assert "compared" not in found and found["unreadable"] == "1 image: 'a.jpg'"


def test_what_is_unusual_has_a_row():
    unknown = LABELS.splits | {"val": {"images": 25, "positive": 50, "unknown": 20}}
    labels = replace(LABELS, splits=unknown, contained=[["puppy", "dog"]])
    found = rows(replace(with_files(bits={"8": 90, "16": 10}), labels=labels))
    assert found["labels"].endswith("10.0% unknown")
    assert found["bits of a value"] == "8 (90 images), 16 (10 images)"
    assert found["always together"] == "'puppy' only with 'dog'"


def test_leaks_are_counted_and_the_first_are_named():
    groups = [[["train", f"{i}.jpg"], ["val", f"v{i}.jpg"]] for i in range(5)]
    card = with_files(duplicates=groups)
    (text,) = warnings(card)
    assert text.startswith("5 images have the same bytes as an image of another split")
    assert "val 'v0.jpg' is train '0.jpg'" in text and "'v2.jpg'" in text and "2 more" in text
    assert rows(card)["duplicates"] == "5 images have the same bytes as another one"
    assert is_shortened(card)


def test_leaks_within_groups_name_the_option():
    groups = [[["train", f"patient{i}/a.jpg"], ["val", f"patient{i}/b.jpg"]] for i in range(5)]
    (text,) = warnings(with_files(duplicates=groups))
    assert "such as 'patient0': set data.group_column, or --config.data.group_pattern=" in text
    for other in ("c0/b.jpg", "patient9/b.jpg"):  # no group, and another one
        (text,) = warnings(with_files(duplicates=[[group[0], ["val", other]] for group in groups]))
        assert "data.group_column" not in text


def test_every_finding_is_one_sentence_with_its_images():
    named = [["train", "a.png"]]
    card = with_files(
        contradictions=[{"images": [*named, ["train", "b.png"]], "classes": ["dog"]}],
        nearly_black=named,
        constant=[*named, ["val", "c.png"]],
        bits={"16": 100},
    )
    card = replace(card, labels=replace(LABELS, same_labels=[["cat", "dog"]]))
    contradiction, black, constant, same = warnings(card)
    assert "'a.png' and 'b.png' ('dog')" in contradiction
    assert black.startswith("1 of the 100 images that were read is nearly black")
    assert "'a.png'" in black and "more than 8 bits" in black
    assert constant.startswith("2 of the 100 images that were read are of one colour")
    assert "'cat', 'dog' have the same labels in all 100 images" in same


def test_a_card_reads_back_and_one_of_another_version_is_none():
    assert from_json(to_json(CARD)) == CARD
    assert from_json(to_json(CARD) | {"version": 2}) is None
    assert from_json({"version": 1}) is None and from_json([]) is None
    assert from_json(to_json(CARD) | {"more": 1}) is None
