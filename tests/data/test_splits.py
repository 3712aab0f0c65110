"""Splits by column, by file or at random: disjoint, and the same when they are read back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlcls_jax.config import Data
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.saved_splits import write_splits
from mlcls_jax.data.splits import check_train, load_splits
from tests.helpers.split_tables import (
    assert_partition,
    divide,
    members,
    names,
    random_table,
    refusal,
)


def test_without_a_column_all_is_drawn():
    table = random_table()
    splits = divide(table, test_fraction=0.1)
    assert list(splits) == ["train", "val", "test"]
    assert_partition(splits, table)
    assert abs(len(splits["val"]) - 0.25 * 200) <= 2
    assert abs(len(splits["test"]) - 0.1 * 200) <= 2


def test_without_test_fraction_there_is_no_test():
    assert list(divide(random_table())) == ["train", "val"]


def test_split_column():
    table = replace(random_table(4), splits=("test", "train", "val", "train"))
    splits = divide(table)
    f = table.filenames
    assert names(splits) == {"train": (f[1], f[3]), "val": (f[2],), "test": (f[0],)}


def test_split_column_without_val():
    column = tuple("test" if i % 4 == 0 else "train" for i in range(200))
    table = replace(random_table(200), splits=column)
    splits = divide(table, test_fraction=0.5)
    assert_partition(splits, table)
    assert splits["test"].filenames == table.filenames[::4]
    assert abs(len(splits["val"]) - 0.25 * 150) <= 2


def test_split_column_without_train():
    table = replace(random_table(2), splits=("val", "test"))
    assert "no train rows" in refusal(divide, table)


def test_files_reorder_classes_and_keep_rows():
    train, val = random_table(50), random_table(20, seed=1, prefix="v")
    turned = val.with_classes(val.classes[::-1], "here", "there")
    splits = divide(train, turned)
    assert list(splits) == ["train", "val"]
    assert splits["train"].filenames == train.filenames
    assert splits["val"].classes == train.classes
    assert np.array_equal(splits["val"].labels, val.labels)


def test_files_without_val_draw_it_from_train():
    train, test = random_table(100), random_table(20, seed=1, prefix="t")
    splits = divide(train, None, test)
    assert list(splits) == ["train", "val", "test"]
    assert splits["test"].filenames == test.filenames
    assert members(splits)["val"] == members(divide(train))["val"]


def test_files_with_other_classes():
    train, val = random_table(9), random_table(9, prefix="v")
    val = replace(val, classes=("class 0", "dog", *val.classes[2:]))
    message = refusal(divide, train, val)
    assert "only in the CSV of val: 'dog'" in message
    assert "only in the CSV of train: 'class 1'" in message


def test_the_same_image_in_two_files(tmp_path):
    (tmp_path / "all" / "val").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "all")
    train = random_table(3, folder=str(tmp_path / "all"), prefix="val/")
    inner = random_table(3, folder=str(tmp_path / "link" / "val"), prefix="")
    message = refusal(divide, train, inner)
    assert "3 images are in both train and val" in message
    assert "0.jpg" in message
    other = random_table(3, folder=str(tmp_path / "other"), prefix="val/")
    assert members(divide(train, other))["val"] == set(train.filenames)


def test_a_separate_file_contradicts_a_split_column():
    train = replace(random_table(3), splits=("train", "val", "train"))
    message = refusal(divide, train, random_table(3, prefix="v"))
    assert "the CSV of train has val in its split column" in message
    fine = replace(train, splits=("train",) * 3)
    assert len(divide(fine, random_table(3, prefix="v"))["train"]) == 3


def test_check_train_names_the_classes():
    train = LabelTable(
        Path("x"), ("a", "b"), np.array([[1, 0, -1], [0, 0, -1]], np.int8), ("p", "q", "r")
    )
    val = replace(train, filenames=("c", "d"), labels=np.array([[0, 1, 1], [0, 0, 1]], np.int8))
    in_train, in_val, always = check_train({"train": train, "val": val})
    assert "No positive label in train (2 images) for 2 of 3 classes" in in_train
    assert "'q', 'r'" in in_train
    assert "for 1 of 3 classes, excluded from the val metrics: 'p'" in in_val
    assert "No positive label in val" in in_val
    assert "No negative label in val" in always
    assert "whose val average precision is always 1: 'r'" in always
    both = np.array([[0, 1, 0], [1, 0, 1]], np.int8)
    assert check_train({"train": replace(train, labels=both)}) == []
    (never,) = check_train({"train": replace(train, labels=both | np.int8([0, 1, 0]))})
    assert (
        "No negative label in train (2 images) for 1 of 3 classes, which cannot be learned: 'q'"
        in never
    )


def write_csv(path: Path, table: LabelTable, column: tuple[str, ...] | None = None) -> Path:
    folder = path.parent / table.folder
    folder.mkdir(exist_ok=True)
    lines = ["filename," + ",".join(table.classes) + (",split" if column else "")]
    for i, name in enumerate(table.filenames):
        (folder / name).touch()
        lines.append(",".join([name, *map(str, table.labels[i]), *(column or ())[i : i + 1]]))
    path.write_text("\n".join(lines))
    return path


def test_load_splits_draws_once_and_reuses(tmp_path):
    csv = write_csv(tmp_path / "labels.csv", random_table(60))
    saved = tmp_path / "splits.csv"
    data = Data(csv=str(csv), images=str(tmp_path / "images"), split_seed=1)
    with pytest.raises(ValueError, match=r"splits\.csv, the list of images by split, is missing"):
        load_splits(data, saved)
    first = load_splits(data)
    assert not saved.exists()
    write_splits(saved, first)
    other = replace(data, split_seed=2)
    assert names(load_splits(replace(other, val_fraction=0.5), saved)) == names(first)
    saved.unlink()
    assert members(load_splits(other)) != members(first)


def test_load_splits_from_files_in_one_folder(tmp_path):
    train = write_csv(tmp_path / "train.csv", random_table(20))
    val = write_csv(tmp_path / "val.csv", random_table(10, prefix="v"))
    order = tmp_path / "categories.csv"
    order.write_text("Labels\n" + "\n".join(f"class {j}" for j in reversed(range(6))))
    data = Data(
        csv=str(train),
        images=str(tmp_path / "images"),
        val_csv=str(val),
        categories=str(order),
    )
    splits = load_splits(data)
    assert {split: len(part) for split, part in splits.items()} == {"train": 20, "val": 10}
    assert splits["val"].classes == tuple(f"class {j}" for j in reversed(range(6)))
    message = refusal(load_splits, replace(data, test_csv=str(val)))
    assert "10 images are in both val and test" in message


def test_load_splits_with_a_folder_for_each(tmp_path):
    tables = {split: random_table(8, seed=i, folder=split) for i, split in enumerate("abc")}
    a, b, c = (str(write_csv(tmp_path / f"{split}.csv", table)) for split, table in tables.items())
    splits = load_splits(
        Data(
            csv=a,
            images=str(tmp_path / "a"),
            val_csv=b,
            val_images=str(tmp_path / "b"),
            test_csv=c,
            test_images=str(tmp_path / "c"),
        )
    )
    assert [Path(part.folder).name for part in splits.values()] == ["a", "b", "c"]


def test_load_splits_by_column(tmp_path):
    column = ("train", "Validation", "train", "dev")
    csv = write_csv(tmp_path / "labels.csv", random_table(4), column)
    splits = load_splits(Data(csv=str(csv), images=str(tmp_path / "images")))
    assert {split: len(part) for split, part in splits.items()} == {"train": 2, "val": 2}
