"""Data sets of Hugging Face `datasets`: their labels, and the bytes of their images."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mlcls_jax import to_csv
from mlcls_jax.config import Config, Data
from mlcls_jax.config.checks import validate
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.readers.read_table import read_table
from mlcls_jax.data.splits import load_splits

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ["cat", "dog", "big bird"]
CLASS = {"names": NAMES, "_type": "ClassLabel"}
LISTS = [[1, 2], [0], []]
MULTI_HOT = [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


def image(i: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), format=kind)
    return file.getvalue()


IMAGES = [image(0), image(1, "PNG"), image(2)]


def table(columns: dict, features: dict | None = None, paths=("a.jpg", "b.png", None)):
    cells = [{"bytes": x, "path": path} for x, path in zip(IMAGES, paths, strict=True)]
    made = pa.table({"image": cells, **columns})
    info = {"info": {"features": {"image": {"_type": "Image"}, **(features or {})}}}
    return made.replace_schema_metadata({"huggingface": json.dumps(info)})


def write(place, made):
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".parquet":
        parquet.write_table(made, place, row_group_size=2)
    else:
        with pa.OSFile(str(place), "wb") as file, pa.ipc.new_stream(file, made.schema) as writer:
            for batch in made.to_batches(max_chunksize=2):
                writer.write_batch(batch)
    return place


def read(place, **fields):
    data = Data(source="hf", csv=str(place), **fields)
    validate(Config(data=data))
    return read_table(data, data.csv, "")


@pytest.mark.parametrize("kind", ["Sequence", "List", ""])
@pytest.mark.parametrize("file", ["x.parquet", "x.arrow"])
def test_a_list_of_class_labels(tmp_path, file, kind):
    feature = {"feature": CLASS, "_type": kind} if kind else [CLASS]
    place = write(tmp_path / file, table({"labels": LISTS, "id": [7, 8, 9]}, {"labels": feature}))
    for _ in range(2):  # the second time, images of Parquet are copied already
        found = read(place)
        assert found.classes == tuple(NAMES) and found.labels.tolist() == MULTI_HOT
        assert found.filenames == ("00000000.jpg", "00000001.png", "00000002.jpg")
        assert [read_file(path) for path in found.paths] == IMAGES
    assert "columns that are not used: 'id'" in found.notes[0]
    assert found.splits is None


@pytest.mark.parametrize(
    ("columns", "features", "fields", "expected"),
    [
        ({"tags": [["b", "a"], ["a"], []]}, {}, {"label_column": "tags"}, [[1, 1], [1, 0], [0, 0]]),
        ({"label": [1, 0, -1]}, {"label": CLASS}, {}, [[0, 1, 0], [1, 0, 0], [0, 0, 0]]),
        ({"cat": [1, 0, None], "dog": [True, False, True]}, {}, {}, [[1, 1], [0, 0], [UNKNOWN, 1]]),
        ({"cat": [0.5, 0.25, 1.0]}, {}, {}, [[1], [0], [1]]),
        (
            {"cat": [1, 0, -1], "age": [4, 5, 6]},
            {},
            {"ignore_columns": "age", "minus_one": "absent"},
            [[1], [0], [0]],
        ),
    ],
)
def test_other_labels(tmp_path, columns, features, fields, expected):
    found = read(write(tmp_path / "x.parquet", table(columns, features)), **fields)
    assert found.labels.tolist() == expected


def test_splits_are_those_of_the_files(tmp_path):
    made = table({"labels": LISTS}, {"labels": {"feature": CLASS, "_type": "List"}})
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/validation-0"):
        write(tmp_path / f"{name}.parquet", made)
    found = read(tmp_path)
    assert found.splits == ("train",) * 6 + ("val",) * 3
    assert found.filenames[-1] == "val/00000008.jpg"
    assert [read_file(path) for path in found.paths] == IMAGES * 3
    splits = load_splits(Data(source="hf", csv=str(tmp_path)))
    assert (len(splits["train"]), len(splits["val"])) == (6, 3)


def test_images_that_are_files(tmp_path):
    made = pa.table({"image": [{"bytes": None, "path": "p/a.jpg"}], "cat": [1]})
    found = read(write(tmp_path / "x.parquet", made))
    assert found.paths == [str(tmp_path / "p" / "a.jpg")]


@pytest.mark.parametrize(
    ("columns", "features", "fields", "message"),
    [
        ({"cat": [1, 0, 3]}, {}, {}, "column 'cat': '3' is not a label"),
        ({"cat": [1, 0, 1]}, {}, {"image_feature": "img"}, "no column 'img', only 'image', 'cat'"),
        ({"a": [0, 1, 2], "b": [1, 1, 1]}, {"a": CLASS, "b": CLASS}, {}, "is not a label"),
        ({}, {}, {}, "no class columns"),
    ],
)
def test_refusals(tmp_path, columns, features, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(write(tmp_path / "x.parquet", table(columns, features)), **fields)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "x.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"contains no \.parquet or \.arrow files"):
        read(tmp_path / "empty")


def test_to_csv(tmp_path, capsys):
    made = table({"labels": LISTS}, {"labels": {"feature": CLASS, "_type": "List"}})
    place = write(tmp_path / "x.parquet", made)
    options = ["--config.data.source=hf", f"--config.data.csv={place}"]
    images = ["--images", str(tmp_path / "photos")]
    assert to_csv.main(["--out", str(tmp_path / "out"), *images, *options]) == 0
    assert "the cells of column 'labels' are lists" in capsys.readouterr().out
    found = read_table(Data(), str(tmp_path / "out/labels.csv"), str(tmp_path / "photos"))
    assert found.labels.tolist() == MULTI_HOT
    assert [read_file(path) for path in found.paths] == IMAGES


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_what_datasets_writes(tmp_path, monkeypatch):
    """`save_to_disk`, `to_parquet`, and `load_dataset` as for a name of the hub."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "labels": datasets.Sequence(datasets.ClassLabel(names=NAMES))}
    )
    cells = [{"bytes": x, "path": None} for x in IMAGES]
    made = datasets.Dataset.from_dict({"image": cells, "labels": LISTS}, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "x.parquet")
    saved = read(tmp_path / "saved")
    assert saved.splits is not None and sorted(saved.splits) == ["test"] * 3 + ["train"] * 3
    assert [read_file(path) for path in saved.paths] == IMAGES * 2
    assert saved.labels.tolist() == MULTI_HOT * 2
    assert read(tmp_path / "x.parquet").labels.tolist() == MULTI_HOT
    load = datasets.load_dataset
    folder = {"data_files": str(tmp_path / "x.parquet"), "cache_dir": str(tmp_path / "cache")}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: load("parquet", **folder))
    hub = read("somebody/photos")
    assert hub.labels.tolist() == MULTI_HOT and set(hub.splits or ()) == {"train"}
    assert [read_file(path) for path in hub.paths] == IMAGES
