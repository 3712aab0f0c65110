"""Predictions for FiftyOne and its samples, without its database; the last test needs one."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.data.readers.fiftyone import read_fiftyone
from mlcls_jax.run.fiftyone import classifications, write_classifications

CLASSES = ("a cat", "dog")


@pytest.fixture
def made(tmp_path):
    scores = np.array([[0.75, 0.5], [0.25, 0.0]])
    content = classifications([str(tmp_path / "a b.jpg"), "c.jpg"], scores, scores > 0.4, CLASSES)
    write_classifications(tmp_path / "labels.json", content)
    return tmp_path


def test_predicted_classes_have_their_probability(made):
    labels = json.loads((made / "labels.json").read_text())["labels"]
    assert labels == {
        str(made / "a b.jpg"): [
            {"label": "a cat", "confidence": 0.75},
            {"label": "dog", "confidence": 0.5},
        ],
        os.path.abspath("c.jpg"): [],
    }


def test_images_in_a_bucket_are_refused():
    with pytest.raises(ValueError, match=r"gs://b/a\.jpg is in a bucket; FiftyOne reads files"):
        classifications(["gs://b/a.jpg"], np.zeros((1, 2)), np.zeros((1, 2), bool), CLASSES)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_fiftyones_importer_reads_the_predictions(made, monkeypatch):
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    data = pytest.importorskip("fiftyone.utils.data")
    importer = data.FiftyOneImageClassificationDatasetImporter(labels_path=made / "labels.json")
    with importer:
        found = {path: label for path, _, label in importer}
    first = found[str(made / "a b.jpg")].classifications
    assert [(one.label, one.confidence) for one in first] == [("a cat", 0.75), ("dog", 0.5)]
    assert len(found) == 2 and found[os.path.abspath("c.jpg")].classifications == []


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_samples_of_fiftyone_are_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    fo = pytest.importorskip("fiftyone")
    samples = []
    for name, tag, chosen in (
        ("a.jpg", "train", CLASSES),
        ("b.jpg", "val", ()),
        ("c.jpg", "val", 0),
    ):
        (tmp_path / name).touch()
        sample = fo.Sample(str(tmp_path / name), tags=[tag])
        if chosen != 0:
            parts = [fo.Classification(label=label) for label in chosen]
            sample["ground_truth"] = fo.Classifications(classifications=parts)
        samples.append(sample.to_dict())
    (tmp_path / "samples.json").write_text(json.dumps({"samples": samples}))
    table = read_fiftyone(tmp_path)
    assert table.classes == CLASSES and table.splits == ("train", "val", "val")
    assert table.labels.tolist() == [[1, 1], [0, 0], [-1, -1]]


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif("FIFTYONE_DATABASE_URI" not in os.environ, reason="needs FiftyOne's database")
def test_a_data_set_of_fiftyone_comes_back_as_labels(tmp_path, monkeypatch):
    """FIFTYONE_DATABASE_URI=mongodb://127.0.0.1 names the database."""
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    fo = pytest.importorskip("fiftyone")
    names = ["a b.jpg", "c.jpg", "d.jpg"]
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    scores = np.array([[0.75, 0.5], [0.25, 0.0], [0.0, 0.5]])
    paths = [str(tmp_path / name) for name in names]
    content = classifications(paths, scores, scores > 0.4, CLASSES)
    write_classifications(tmp_path / "predictions.json", content)
    dataset = fo.Dataset.from_dir(
        dataset_type=fo.types.FiftyOneImageClassificationDataset,
        labels_path=str(tmp_path / "predictions.json"),
        label_field="predictions",
    )
    try:
        samples = {sample.filepath: sample for sample in dataset}
        first = samples[paths[0]].predictions.classifications
        assert [(one.label, one.confidence) for one in first] == [("a cat", 0.75), ("dog", 0.5)]
        samples[paths[2]]["predictions"] = None
        samples[paths[2]].save()
        dataset.export(export_dir=str(tmp_path / "out"), dataset_type=fo.types.FiftyOneDataset)
    finally:
        dataset.delete()
    table = read_fiftyone(tmp_path / "out")
    assert table.classes == CLASSES and table.filenames == tuple(names)
    assert table.labels.tolist() == [[1, 1], [0, 0], [-1, -1]]
