"""to_csv writes the labels of any source as CSVs that are read back as the same table."""

import pytest
from layouts import make_coco, make_voc

from mlcls_jax import to_csv
from mlcls_jax.config import Data
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.read_table import read_table

# ml_collections loads a config file by a method that Python has deprecated.


def convert(out, data: dict, *options) -> int:
    fields = [f"--config.data.{name}={value}" for name, value in data.items()]
    return to_csv.main(["--out", str(out), *options, *fields])


def assert_same(ours, theirs):
    assert ours.filenames == theirs.filenames and ours.splits == theirs.splits
    assert ours.classes == theirs.classes
    assert ours.labels.tolist() == theirs.labels.tolist()


def test_coco(tmp_path, capsys):
    place, out = make_coco(tmp_path / "coco"), tmp_path / "out"
    data = {
        "source": "coco",
        "csv": str(place / "annotations/instances_train2017.json"),
        "images": str(place / "train2017"),
        "val_csv": str(place / "annotations/instances_val2017.json"),
        "val_images": str(place / "val2017"),
        "crowd": "unknown",
    }
    assert convert(out, data) == 0
    for name, prefix in (("labels", ""), ("val", "val_")):
        folder = data[f"{prefix}images"]
        table = read_labels(out / f"{name}.csv", folder, categories=out / "categories.csv")
        assert_same(table, read_table(Data(**data), data[f"{prefix}csv"], folder))
    text = (out / "labels.csv").read_text()
    assert text.startswith("filename,dog,person,cat\n000000391895.jpg,1,1,0\n")
    assert "522418.jpg,1,0,\n" in text  # a crowd of cats is unknown
    printed = capsys.readouterr().out
    assert "3 images, 3 classes, 3 positive labels, 1 unknown" in printed
    assert f"--config.data.val_csv={out / 'val.csv'}" in printed
    assert f"--config.data.val_images={place / 'val2017'}" in printed

    with pytest.raises(ValueError, match="out already exists"):
        convert(out, data)


def test_voc_with_its_splits_and_images(tmp_path):
    tree, out = make_voc(tmp_path), tmp_path / "out"
    data = {"source": "voc", "csv": str(tree)}
    assert convert(out, data, "--images", str(tmp_path / "photos")) == 0
    table = read_labels(out / "labels.csv", tmp_path / "photos")
    direct = read_table(Data(**data), str(tree), "")
    assert_same(table, direct)
    for ours, theirs in zip(table.paths, direct.paths, strict=True):
        with open(ours, "rb") as a, open(theirs, "rb") as b:
            assert a.read() == b.read()


def test_mistakes_write_nothing(tmp_path):
    for data, words in [
        ({"source": "coco", "csv": "nowhere.json", "images": str(tmp_path)}, "cannot be read"),
        ({"source": "kitti", "csv": "x"}, "data.source is 'kitti'"),
        ({}, "data.csv is empty"),
    ]:
        with pytest.raises(ValueError, match=words):
            convert(tmp_path / "out", data)
    assert list(tmp_path.iterdir()) == []


def test_groups_become_a_column(tmp_path, capsys):
    tree, out = make_voc(tmp_path), tmp_path / "out"
    data = {"source": "voc", "csv": str(tree), "group_pattern": "0000"}
    assert convert(out, data) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("--config.data.group_column=group\n")
    table = read_labels(out / "labels.csv", tree / "JPEGImages", group_column="group")
    assert set(table.groups or ()) == {"0000"}
