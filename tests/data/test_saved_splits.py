"""The file splits.csv: written, read again, and refused if it no longer fits."""

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcls_jax.data.saved_splits import read_splits, write_splits
from tests.helpers.split_tables import (
    divide,
    names,
    random_table,
    refusal,
)

AWKWARD = st.text(st.characters(codec="utf-8", exclude_characters="\0\\"), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(
    file_names=st.lists(AWKWARD, min_size=3, max_size=12, unique=True),
    test_fraction=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_written_and_read_again(tmp_path_factory, file_names, test_fraction, seed):
    path = tmp_path_factory.mktemp("run") / "splits.csv"
    table = replace(random_table(len(file_names), seed=seed), filenames=tuple(file_names))
    splits = divide(table, test_fraction=test_fraction, seed=seed)
    write_splits(path, splits)
    again = read_splits(path, table)
    assert names(again) == names(splits)
    assert list(again) == list(splits)
    assert os.listdir(path.parent) == ["splits.csv"]


def test_written_as_documented(tmp_path):
    table = replace(random_table(3), splits=("val", "train", "test"))
    write_splits(tmp_path / "splits.csv", divide(table))
    a, b, c = table.filenames
    expected = f"filename,split\n{b},train\n{a},val\n{c},test\n"
    assert (tmp_path / "splits.csv").read_bytes() == expected.encode()


@pytest.mark.parametrize("with_val", [True, False])
@pytest.mark.parametrize("with_test", [True, False])
def test_files_with_equal_names_read_again(tmp_path, with_val, with_test):
    train = random_table(40, folder="train")
    val = random_table(10, seed=1, folder="val") if with_val else None
    test = random_table(15, seed=2, folder="test") if with_test else None
    splits = divide(train, val, test, seed=7)
    write_splits(tmp_path / "splits.csv", splits)
    again = read_splits(tmp_path / "splits.csv", train, val, test)
    assert names(again) == names(splits)
    assert [part.folder for part in again.values()] == [part.folder for part in splits.values()]


def test_saved_splits_that_no_longer_fit(tmp_path):
    path = tmp_path / "splits.csv"
    table = random_table(30)
    write_splits(path, divide(table))
    message = refusal(read_splits, path, table.take(range(28)))
    assert "2 of its images are not in the label CSV" in message
    assert repr(table.filenames[29]) in message
    write_splits(path, divide(table.take(range(27))))
    message = refusal(read_splits, path, table)
    assert "3 images of the label CSV are not in it" in message
    assert repr(table.filenames[28]) in message
    assert "another --workdir" in message
    val = random_table(5, seed=1, folder="val")
    write_splits(path, divide(table, val))
    message = refusal(read_splits, path, table, val.take([0, 1, 2, 3]))
    assert "1 of its images are not in the CSV of val" in message


def test_saved_splits_against_an_edited_column(tmp_path):
    path = tmp_path / "splits.csv"
    table = replace(random_table(4), splits=("train", "train", "val", "train"))
    write_splits(path, divide(table))
    edited = replace(table, splits=("val", "train", "val", "train"))
    message = refusal(read_splits, path, edited)
    assert (
        f"1 images have another split in the CSV's column, the first {table.filenames[0]!r}"
        in message
    )
    drawn = replace(table, splits=("train", "train", "test", "train"))
    write_splits(path, divide(drawn))
    assert names(read_splits(path, drawn)) == names(divide(drawn))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("filename,split\na,train\nb,dev\n", "row 3, column 'split': 'dev'"),
        ("filename,split\na,train\na,train\nb,val\n", "rows 2 and 3, column 'filename': 'a'"),
        ("filename,split\na,train\na,val\nb,val\n", "'a' in both train and val"),
        ("filename,split\na,train\nb,train\n", "no row has the split val"),
        ("filename,split\na,val\nb,val\n", "no row has the split train"),
        ("filename\na\nb\n", "no column 'split'"),
        ("", "empty"),
    ],
)
def test_damaged_saved_splits(tmp_path, text, words):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    table = replace(random_table(2), filenames=("a", "b"))
    assert words in refusal(read_splits, path, table)
