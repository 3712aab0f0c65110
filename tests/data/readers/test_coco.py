"""COCO's JSON files, made here in the real layout."""

import json

import numpy as np
import pytest
from layouts import coco_json, make_coco

from mlcls_jax.config import Data
from mlcls_jax.data.readers import json_files
from mlcls_jax.data.readers.coco import read_coco
from mlcls_jax.data.readers.detection import AnnotationPolicy
from mlcls_jax.data.splits import load_splits

USUAL = AnnotationPolicy("present", "unknown", 0.0)


@pytest.fixture
def place(tmp_path):
    return make_coco(tmp_path)


def read(place, policy=USUAL, split="train", kind="instances"):
    return read_coco(
        place / "annotations" / f"{kind}_{split}2017.json", place / f"{split}2017", policy
    )


def test_every_annotation_counts_and_classes_keep_the_order_of_the_file(place):
    table = read(place)
    assert table.classes == ("dog", "person", "cat")
    assert table.filenames == ("000000391895.jpg", "000000522418.jpg", "000000184613.jpg")
    assert table.labels.dtype == np.int8
    assert table.labels.tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert table.splits is None and table.paths[0] == str(place / "train2017/000000391895.jpg")


@pytest.mark.parametrize(
    ("policy", "labels"),
    [
        (AnnotationPolicy("unknown", "unknown", 0.0), [[1, 1, 0], [1, 0, -1], [0, 0, 0]]),
        (AnnotationPolicy("absent", "unknown", 0.0), [[1, 1, 0], [1, 0, 0], [0, 0, 0]]),
        (AnnotationPolicy("present", "unknown", 120.5), [[1, 1, 0], [1, 0, 1], [0, 0, 0]]),
        (AnnotationPolicy("present", "unknown", 121.0), [[-1, 1, 0], [1, 0, 1], [0, 0, 0]]),
        (AnnotationPolicy("absent", "unknown", 1e9), [[-1, -1, 0], [-1, 0, 0], [0, 0, 0]]),
    ],
)
def test_crowds_and_small_objects_follow_the_policy(place, policy, labels):
    assert read(place, policy).labels.tolist() == labels


def test_without_an_area_that_of_the_box_is_used(place):
    content = coco_json()
    for entry in content["annotations"]:
        entry["area"] = None  # the boxes have 80 square pixels
    del content["annotations"][0]["area"]
    write(place, content)
    assert (read(place, AnnotationPolicy("present", "unknown", 80.0)).labels == 1).sum() == 4
    assert (read(place, AnnotationPolicy("present", "unknown", 81.0)).labels == -1).sum() == 4


def test_an_impossible_area_is_named(place):
    content = coco_json()
    content["annotations"][1]["area"] = 10**400
    write(place, content)
    with pytest.raises(ValueError, match=r"annotations\[1\] has neither area nor"):
        read(place, AnnotationPolicy("present", "unknown", 80.0))


def test_without_annotations_all_labels_are_unknown(place):
    table = read(place, split="test", kind="image_info")
    assert (table.labels == -1).all() and len(table) == 3


def test_splits_from_three_files(place):
    splits = load_splits(
        Data(
            source="coco",
            csv=str(place / "annotations/instances_train2017.json"),
            images=str(place / "train2017"),
            val_csv=str(place / "annotations/instances_val2017.json"),
            val_images=str(place / "val2017"),
            test_csv=str(place / "annotations/image_info_test2017.json"),
            test_images=str(place / "test2017"),
        )
    )
    assert {split: len(table) for split, table in splits.items()} == dict(train=3, val=3, test=3)
    assert (splits["train"].labels == splits["val"].labels).all()


def test_json_as_a_csv_says_what_to_set(place):
    csv = str(place / "annotations/instances_train2017.json")
    with pytest.raises(ValueError, match=r"is not a label CSV; set data\.source='coco'"):
        load_splits(Data(csv=csv, images=str(place / "train2017")))


def write(place, content):
    (place / "annotations/instances_train2017.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )


def set_to(key, i, field, value):
    def change(content):
        content[key][i][field] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_to("images", 1, "file_name", 7), r"images\[1\]: file_name is '7'; it must be text"),
        (set_to("images", 1, "file_name", "gone.jpg"), r"first in images\[1\]: 'gone\.jpg'"),
        (set_to("images", 1, "file_name", "../a.jpg"), r"images\[1\]: '\.\./a\.jpg' is outside"),
        (set_to("images", 2, "file_name", "000000391895.jpg"), r"images\[0\] and images\[2\]"),
        (set_to("images", 2, "id", 391895), r"images\[0\] and images\[2\] have the same id 391895"),
        (set_to("images", 2, "id", None), r"images\[2\]: id is 'None'"),
        (set_to("categories", 1, "name", "dog"), "several categories have the name 'dog'"),
        (
            set_to("annotations", 3, "category_id", 4),
            r"annotations\[3\]: category_id 4 is not in",
        ),
        (set_to("annotations", 3, "image_id", 4), r"annotations\[3\]: image_id 4 is not in the"),
        (set_to("annotations", 3, "image_id", [4]), r"annotations\[3\]: image_id is '\[4\]'"),
        (set_to("annotations", 3, "iscrowd", 2), r"annotations\[3\]: iscrowd is 2"),
        (lambda c: c["annotations"].append(5), r"annotations\[5\]: image_id is 'None'"),
        (lambda c: c.pop("images"), "no list 'images'"),
        (lambda c: c["categories"].clear(), "no list 'categories' with entries"),
    ],
)
def test_mistakes_are_named(place, change, words):
    content = coco_json()
    change(content)
    write(place, content)
    with pytest.raises(ValueError, match=words) as info:
        read(place)
    assert "\n" not in str(info.value) and "instances_train2017.json" in str(info.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"images": "x"}', "[" * 100_000, '"\\ud800', "9" * 5000]
)
def test_other_json_is_refused(place, text):
    write(place, text)
    with pytest.raises(ValueError, match=r"needs an instances_\*\.json"):
        read(place)


def test_a_file_too_large_is_not_read(place, monkeypatch):
    monkeypatch.setattr(json_files, "MOST", 100)
    with pytest.raises(ValueError, match="more than"):
        read(place)


def test_a_missing_folder_is_named(place):
    with pytest.raises(ValueError, match="nowhere: no such image folder"):
        read_coco(place / "annotations/instances_train2017.json", place / "nowhere", USUAL)
    with pytest.raises(ValueError, match="cannot be read"):
        read_coco(place / "nowhere.json", place, USUAL)
