"""Groups: from a column or a pattern, never in two splits, proposed where names show them."""

from dataclasses import replace

import numpy as np
import pytest

from mlcls_jax.config import Data
from mlcls_jax.data.folds import into_folds
from mlcls_jax.data.groups import proposed_groups, with_pattern
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_labels import labels_csv, read_labels
from mlcls_jax.data.saved_splits import read_splits, write_splits
from mlcls_jax.data.splits import draw_pool, load_splits, make_splits


def named_table(names: list[str], groups: tuple[str, ...] | None = None) -> LabelTable:
    labels = np.arange(len(names))[:, None] % 2
    return LabelTable("images", tuple(names), labels.astype(np.int8), ("cat",), groups=groups)


@pytest.fixture
def data(tmp_path):
    """A config whose CSV has 20 images of 5 patients; one image has none."""
    (tmp_path / "images").mkdir()
    lines = ["filename,patient,cat,dog"]
    for i in range(20):
        (tmp_path / "images" / f"{i:02}.jpg").touch()
        lines.append(f"{i:02}.jpg,{f'p{i % 5}' if i else ''},{i % 2},{i // 10}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return Data(
        csv=str(tmp_path / "labels.csv"), images=str(tmp_path / "images"), group_column="patient"
    )


def patients(table: LabelTable) -> set[str]:
    return set(table.groups or ()) - {""}


def test_groups_of_a_column_are_never_in_two_splits(data, tmp_path):
    splits = load_splits(data)
    assert splits["train"].classes == ("cat", "dog")
    assert patients(splits["train"]) | patients(splits["val"]) == {f"p{i}" for i in range(5)}
    assert not patients(splits["train"]) & patients(splits["val"])
    note = "column 'patient': 5 groups of 20 images; 1 of the images has no group and is one of its"
    assert note in splits["train"].notes[0]
    write_splits(tmp_path / "splits.csv", splits)
    again = load_splits(data, saved=tmp_path / "splits.csv")
    assert {name: part.filenames for name, part in again.items()} == {
        name: part.filenames for name, part in splits.items()
    }


def test_uneven_shares_are_said_of_test_and_of_folds():
    table = named_table([f"{i:02}" for i in range(20)], ("big",) * 12 + tuple("abcdefgh"))
    assert not draw_pool(table, None, test_fraction=0.4, seed=0)["train"].notes
    two = replace(table, groups=("big",) * 12 + ("small",) * 8)
    (note,) = draw_pool(two, None, test_fraction=0.2, seed=0)["train"].notes
    assert note == "test has 40 % of the images instead of 20 %, because groups stay together"
    folds = into_folds({"train": table}, folds=4, seed=0)
    big = folds.fold[0]
    assert f"fold {big} has 60 % of the images instead of 25 %" in "".join(folds.table.notes)
    assert folds.splits_of(int(big))["val"].groups == ("big",) * 12
    assert not into_folds({"train": replace(table, groups=None)}, 4, seed=0).table.notes


def test_a_pattern_finds_groups_in_file_names(data, tmp_path):
    pattern = replace(data, group_column="", ignore_columns="patient", group_pattern=r"(\d)\.jpg")
    splits = load_splits(pattern)
    assert patients(splits["train"]) | patients(splits["val"]) == set("0123456789")
    assert not patients(splits["train"]) & patients(splits["val"])
    with pytest.raises(ValueError, match=r"data.group_pattern='patient' fits none of the 20 file"):
        load_splits(replace(pattern, group_pattern="patient"))


def test_a_group_in_two_splits_is_an_error():
    table = named_table(list("abcd"), ("p", "p", "q", "q"))
    splits = replace(table, splits=("train", "val", "train", "train"))
    with pytest.raises(ValueError, match="1 groups are in both train and val: 'p'; correct"):
        make_splits(splits, val_fraction=0.25, test_fraction=0, seed=0)
    other = replace(named_table(list("ef"), ("q", "r")), folder="other")
    with pytest.raises(ValueError, match="1 groups are in both train and val: 'q'"):
        make_splits(table, other, val_fraction=0.25, test_fraction=0, seed=0)


def test_images_without_a_group_may_be_in_different_splits():
    table = replace(named_table(list("ab"), ("", "")), splits=("train", "val"))
    assert len(make_splits(table, val_fraction=0.25, test_fraction=0, seed=0)) == 2


def test_a_leak_in_saved_splits_is_an_error(tmp_path):
    table = named_table(list("abcd"))
    write_splits(
        tmp_path / "splits.csv", make_splits(table, val_fraction=0.5, test_fraction=0, seed=0)
    )
    with pytest.raises(ValueError, match="groups are in both train and val"):
        read_splits(tmp_path / "splits.csv", replace(table, groups=("p",) * 4))


def test_a_large_group_that_spoils_a_share_is_said():
    table = named_table([f"{i}.jpg" for i in range(20)], ("a",) * 10 + ("b",) * 10)
    splits = make_splits(table, val_fraction=0.25, test_fraction=0, seed=0)
    said = "val has 50 % of the images instead of 25 %, because groups stay together"
    assert said in splits["train"].notes


def test_written_labels_keep_their_groups(data, tmp_path):
    table = read_labels(data.csv, data.images, group_column="patient")
    (tmp_path / "again.csv").write_text(labels_csv(table))
    again = read_labels(tmp_path / "again.csv", data.images, group_column="group")
    assert again.groups == table.groups
    assert again.classes == table.classes
    with pytest.raises(ValueError, match="the class 'group' has the name of another column"):
        labels_csv(replace(table, classes=("group", "dog")))


def test_rows_of_one_image_have_one_group(data, tmp_path):
    with open(data.csv, "a") as file:
        file.write("\n03.jpg,p9,1,0")
    with pytest.raises(ValueError, match=r"'03\.jpg', in group p3 and group p9; keep one"):
        load_splits(data)


def test_only_data_to_train_on_needs_the_column(data):
    without = replace(data, group_column="hospital")
    with pytest.raises(ValueError, match=r"no column 'hospital'.*check data\.group_column"):
        load_splits(without)
    options = {"unlabelled": True, "ignore_columns": "patient", "group_column": "hospital"}
    assert read_labels(data.csv, data.images, **options).groups is None


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ("patient{:05}_view{}.png", r"(patient\d+)"),
        ("train/Patient{}/study1/view{}.jpg", r"(Patient\d+)"),
        ("vid{}_frame{:04}.jpg", r"(vid\d+)"),
        ("site_{}-{}.jpg", r"(site_\d+)"),
        ("walk{}_frame{:04}.jpg", "(.+)_frame"),
        ("{:08}_{:03}.png", r"(\d+)_\d+\.\w+$"),
    ],
)
def test_likely_groups_are_proposed_with_the_option_and_not_assumed(names, pattern):
    table = named_table([names.format(i // 3, i % 3) for i in range(30)])
    splits = make_splits(table, val_fraction=0.3, test_fraction=0, seed=0)
    [note] = splits["train"].notes
    assert note.endswith(f"set --config.data.group_pattern='{pattern}'")
    assert "3 images" in note
    assert splits["train"].groups is None
    grouped = with_pattern(table, pattern)
    assert len(set(grouped.groups or ())) == 10
    splits = make_splits(grouped, val_fraction=0.3, test_fraction=0, seed=0)
    assert not any("look like groups" in note for note in splits["train"].notes)


@pytest.mark.parametrize(
    "names",
    [
        "patient{0}_view1.png",
        "patient7_view{0}.png",
        "{0:06}.jpg",
        "IMG_{0}.jpg",
        "COCO_val2014_{0:012}.jpg",
        "2007_{0:06}.jpg",
        "cat.{0}.jpg",
    ],
)
def test_names_without_groups_of_several_images_are_not_proposed(names):
    table = named_table([names.format(i) for i in range(30)])
    assert make_splits(table, val_fraction=0.3, test_fraction=0, seed=0)["train"].notes == ()


def test_groups_that_the_splits_keep_apart_are_not_proposed():
    table = named_table([f"patient{i // 3}_view{i % 3}.png" for i in range(30)])
    splits = {"train": table.take(range(15)), "val": table.take(range(15, 30))}
    assert proposed_groups(splits) == ""
    assert "2 images" not in proposed_groups({"train": table})
    assert "10 of the 10 are in more than one image" in proposed_groups({"train": table})
