"""Tasks for Label Studio, checked by its own SDK where that is installed."""

import json

import numpy as np
import pytest

from mlcls_jax.run.label_studio import tasks, write_tasks

CLASSES = ("a cat", "dog")
INTERFACE = """<View><Image name="image" value="$image"/>
<Choices name="classes" toName="image" choice="multiple">
<Choice value="a cat"/><Choice value="dog"/></Choices></View>"""


@pytest.fixture
def made(tmp_path):
    present = np.array([[True, True], [False, False]])
    paths = [str(tmp_path / "a b.jpg"), "gs://bucket/c.jpg"]
    entries = tasks(["a b.jpg", "c.jpg"], paths, present, np.array([0.25, 1.0]), CLASSES)
    write_tasks(tmp_path / "tasks.json", entries)
    return tmp_path, json.loads((tmp_path / "tasks.json").read_text())


def test_predicted_classes_are_choices_and_files_are_local_files(made):
    folder, (first, second) = made
    place = str(folder).lstrip("/")
    assert first["data"] == {
        "image": f"/data/local-files/?d={place}/a%20b.jpg",
        "filename": "a b.jpg",
    }
    (prediction,) = first["predictions"]
    assert prediction["score"] == 0.25
    assert prediction["result"][0]["value"] == {"choices": ["a cat", "dog"]}
    assert second["data"]["image"] == "gs://bucket/c.jpg"
    assert second["predictions"][0]["result"] == []


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_sdk_accepts_tasks_and_predictions(made):
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface(INTERFACE)
    for task in made[1]:
        assert interface.validate_task({"data": task["data"]})
        assert all(map(interface.validate_prediction, task["predictions"]))
    wrong = json.loads(json.dumps(made[1][0]["predictions"][0]).replace("dog", "cow"))
    assert not interface.validate_prediction(wrong)
