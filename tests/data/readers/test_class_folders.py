"""Folders that are called like classes are read as labels, also from the command line."""

from dataclasses import replace

import pytest

from mlcls_jax import pack, to_csv
from mlcls_jax.config import Config, Data
from mlcls_jax.config.checks import validate
from mlcls_jax.data.readers.packed import read_packed
from mlcls_jax.data.readers.read_table import read_table
from mlcls_jax.data.splits import load_splits


@pytest.fixture
def photos(tmp_path):
    return tmp_path / "photos"


def write(folder, **files):
    """Writes files by name, with `__` for a slash and their contents."""
    for name, contents in files.items():
        path = folder / f"{name.replace('__', '/')}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents)


def read(folder, **fields):
    return read_table(Data(**fields), str(folder), "")


@pytest.mark.parametrize("source", ["csv", "folders"])
def test_an_image_in_two_folders_has_two_labels(photos, source):
    write(photos, cat__1="a", dog__1="a", dog__2="bb", cat__deep__x="ccc", bird__2="dd")
    (photos / "cat" / "._1.jpg").write_text("hidden")
    (photos / "cat" / "notes.txt").write_text("no image")
    table = read(photos, source=source)
    assert table.classes == ("bird", "cat", "dog") and table.splits is None
    assert table.filenames == ("bird/2.jpg", "cat/1.jpg", "cat/deep/x.jpg", "dog/2.jpg")
    assert table.labels.tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1]]
    (note,) = table.notes
    assert "its folders are the classes 'bird', 'cat', 'dog', and all others are absent" in note
    assert "5 files are 4 images" in note and "(1 have several)" in note
    assert read(photos, categories="").paths[0] == str(photos / "bird" / "2.jpg")


def test_folders_of_splits(photos):
    write(photos, train__cat__1="a", train__dog__1="a", Val__cat__1="a", Val__cat__2="b")
    table = read(photos)
    assert table.classes == ("cat", "dog")
    assert table.filenames == ("Val/cat/1.jpg", "Val/cat/2.jpg", "train/cat/1.jpg")
    assert table.splits == ("val", "val", "train")
    assert table.labels.tolist() == [[1, 0], [1, 0], [1, 1]]  # copies in two splits stay two
    assert "Val/ is val, train/ is train" in table.notes[0]
    write(photos, test__1="c")
    table = read(photos)
    assert len(table) == 3 and "images in no class folder are not used: 'test'" in table.notes[0]
    write(photos, bus__1="d")
    with pytest.raises(ValueError, match=r"'Val', 'train' contain folders of the same names"):
        read(photos)
    assert read(photos, source="folders").classes == ("Val", "bus", "test", "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cat__1": "a", "2": "b"}, "1 images are in no class folder: '2.jpg'"),
        ({"train__1": "a", "test__1": "b"}, "test/ holds images, but no class folders"),
        ({"train__cat__1": "a", "val__1": "b"}, "in no class folder: 'val/1.jpg'"),
    ],
)
def test_images_without_a_class_are_refused(photos, files, message):
    write(photos, **files)
    with pytest.raises(ValueError, match=message):
        read(photos)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"photos__cat__1": "a", "photos__dog__1": "b"},
            "only one class.*photos/photos,",
        ),
        ({"images__1": "a", "images__2": "b"}, "all images are in the folder 'images'"),
        ({"cat__1": "a", "Cat__1": "b"}, "'Cat' and 'cat' differ only in case"),
        (
            {f"fold{i}__{name}__1": f"{i}" for i in (1, 2) for name in ("cat", "dog")},
            r"'fold1', 'fold2' contain folders of the same names, such as 'cat'.*data\.source",
        ),
        ({"a": "a", "b": "b"}, "neither class folders with images nor a packed data set"),
    ],
)
def test_folders_that_are_no_classes_are_refused(photos, files, message):
    write(photos, **files)
    with pytest.raises(ValueError, match=message):
        read(photos)


def test_folders_within_classes_may_have_the_same_name(photos):
    write(photos, cat__images__1="a", dog__images__1="b", __MACOSX__cat__images__1="c")
    assert read(photos).classes == ("cat", "dog")
    with pytest.raises(ValueError, match="only one class"):
        read(photos / "cat")


def test_other_folders(photos, tmp_path):
    write(photos, cat__1="a", dog__1="b")
    write(tmp_path / "val", dog__9="c")
    data = Data(csv=str(photos), val_csv=str(tmp_path / "val"))
    validate(Config(data=data))
    splits = load_splits(data)
    assert splits["val"].classes == ("cat", "dog") and splits["val"].labels.tolist() == [[0, 1]]
    write(tmp_path / "val", cow__9="d")
    with pytest.raises(ValueError, match="the folder 'cow' is not one of the classes 'cat', 'dog'"):
        load_splits(data)
    with pytest.raises(ValueError, match="remove it"):
        validate(Config(data=replace(data, source="folders", images=str(photos))))
    with pytest.raises(ValueError, match="contains no class folders"):
        read(tmp_path / "empty", source="folders")


def test_to_csv_and_pack(photos, tmp_path, capsys):
    write(photos, cat__1="a", dog__1="a", dog__2="b")
    assert to_csv.main(["--out", str(tmp_path / "csv"), f"--config.data.csv={photos}"]) == 0
    printed = capsys.readouterr().out
    assert "its folders are the classes" in printed
    assert f"--config.data.images={photos}" in printed
    table = read_table(Data(), str(tmp_path / "csv" / "labels.csv"), str(photos))
    assert table.filenames == ("cat/1.jpg", "dog/2.jpg") and table.labels.tolist() == [
        [1, 1],
        [0, 1],
    ]
    assert pack.main(["--csv", str(photos), "--out", str(tmp_path / "packed")]) == 0
    packed = read_packed(tmp_path / "packed")
    assert packed.filenames == table.filenames and packed.labels.tolist() == table.labels.tolist()


def test_a_bucket(empty_bucket):
    for name in ("cat/1.jpg", "dog/1.jpg", "dog/2.jpg"):
        empty_bucket.pipe(f"/bucket/photos/{name}", b"a" if name[-5] == "1" else b"b")
    table = read("memory://bucket/photos", source="folders")
    assert table.filenames == ("cat/1.jpg", "dog/2.jpg") and table.labels.tolist() == [
        [1, 1],
        [0, 1],
    ]
    assert table.paths[0] == "memory://bucket/photos/cat/1.jpg"
