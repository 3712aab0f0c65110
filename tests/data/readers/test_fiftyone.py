"""Exports of FiftyOne as labels; tests/run/test_fiftyone.py has those of FiftyOne itself."""

import json
from pathlib import Path

import pytest

from mlcls_jax.config import Data
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.readers.fiftyone import read_fiftyone
from mlcls_jax.data.readers.read_table import read_table


def classified(*labels: str) -> dict:
    parts = [{"_cls": "Classification", "tags": [], "label": label} for label in labels]
    return {"_cls": "Classifications", "classifications": parts}


def exported() -> list[dict]:
    """Returns samples as FiftyOne 1.22 writes them."""
    one = {"_cls": "Classification", "tags": [], "label": "dog"}
    return [
        {"filepath": "data/a.jpg", "tags": ["train"], "ground_truth": classified("cat", "dog")},
        {"filepath": "data/b.jpg", "tags": ["validation"], "ground_truth": classified()},
        {"filepath": "data/c.jpg", "tags": ["train", "blurred"], "ground_truth": None},
        {"filepath": "data/sub/d.jpg", "tags": ["test"], "ground_truth": one},
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg", "sub/d.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return tmp_path


def written(folder: Path, samples: object) -> Path:
    (folder / "samples.json").write_text(json.dumps({"samples": samples}))
    return folder


def test_classifications_are_labels_and_tags_are_splits(folder):
    table = read_fiftyone(written(folder, exported()))
    assert table.filenames == ("a.jpg", "b.jpg", "c.jpg", "sub/d.jpg")
    assert table.classes == ("cat", "dog")
    assert table.labels.tolist() == [[1, 1], [0, 0], [UNKNOWN, UNKNOWN], [0, 1]]
    assert table.splits == ("train", "val", "train", "test")


def test_absolute_paths_need_no_folder(folder, tmp_path):
    samples = exported()
    for sample in samples:
        sample["filepath"] = str(tmp_path / sample["filepath"])
    samples[1]["tags"] = []
    place = folder / "elsewhere"
    place.mkdir()
    data = Data(source="fiftyone")
    table = read_table(data, str(written(place, samples)), "", classes=("cat", "dog", "hen"))
    assert table.filenames[3] == "sub/d.jpg" and table.splits is None
    assert table.labels.shape == (4, 3)


def test_a_field_is_chosen_by_its_name(folder):
    samples = [{**sample, "predictions": classified("hen")} for sample in exported()]
    with pytest.raises(
        ValueError, match=r"fields 'ground_truth', 'predictions'; set data.label_co"
    ):
        read_fiftyone(written(folder, samples))
    assert read_fiftyone(folder, "predictions").classes == ("hen",)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "has no list of samples; data.source='fiftyone' needs the folder of an export"),
        ([{"tags": []}], r"samples\[0\] has no filepath"),
        ([{"filepath": "data/a.jpg"}], "no sample has a field of classifications"),
        ([{"filepath": "data/a.jpg", "x": classified()}], "no sample has a label in x"),
        ([{"filepath": "data/no.jpg", "x": classified("a")}], r"samples\[0\].*no\.jpg"),
        (
            [{"filepath": "data/a.jpg", "x": {"_cls": "Classification", "label": None}}],
            r"samples\[0\] has a classification without a label",
        ),
    ],
)
def test_a_mistake_names_the_file_and_the_sample(folder, samples, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_fiftyone(written(folder, samples))
    assert "samples.json" in str(caught.value)


def test_foreign_labels_are_refused(folder):
    with pytest.raises(ValueError, match="has the labels 'dog', which are not classes of train"):
        read_fiftyone(written(folder, exported()), classes=("cat",))
