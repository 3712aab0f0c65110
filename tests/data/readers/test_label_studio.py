"""Exports of Label Studio as labels, compared with what its own converter makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlcls_jax.config import Data
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.label_studio import read_label_studio
from mlcls_jax.data.readers.read_table import read_table
from mlcls_jax.run.label_studio import tasks

INTERFACE = """<View><Image name="image" value="$image"/>
<Choices name="classes" toName="image" choice="multiple">
<Choice value="cat"/><Choice value="dog"/><Choice value="hen"/></Choices></View>"""
NAMES = ("a b.jpg", "b.jpg", "c.jpg", "d.jpg", "sub/e.jpg")


def choices(*names: str, tag: str = "classes") -> dict:
    return {"from_name": tag, "to_name": "image", "type": "choices", "value": {"choices": names}}


def annotation(*results: dict, cancelled: bool = False) -> dict:
    return {"id": 1, "was_cancelled": cancelled, "result": list(results)}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in NAMES:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    return tmp_path


def exported(folder: Path) -> list[dict]:
    """Returns an export, as Label Studio writes it in the format JSON."""
    place = str(folder / "photos").lstrip("/")
    images = (
        f"/data/local-files/?d={place}/a%20b.jpg",
        "/data/upload/3/b.jpg",
        "c.jpg",
        "https://photos.org/new/d.jpg?size=big",
        str(folder / "photos/sub/e.jpg"),
    )
    annotations = (
        [annotation(choices("cat", "dog"))],
        [annotation()],
        [annotation(choices("dog"), cancelled=True)],
        [annotation(choices("cat")), annotation(choices("cat", "hen"))],
        [annotation(choices("hen"))],
    )
    return [
        {"id": i, "data": {"image": image}, "annotations": parts, "predictions": []}
        for i, (image, parts) in enumerate(zip(images, annotations, strict=True), 1)
    ]


def written(folder: Path, content: object) -> Path:
    path = folder / "export.json"
    path.write_text(json.dumps(content))
    return path


def read(folder: Path, content: object, **options) -> LabelTable:
    return read_label_studio(written(folder, content), folder / "photos", **options)


def test_choices_are_labels_and_what_nobody_agreed_on_is_unknown(folder):
    table = read(folder, exported(folder))
    assert table.filenames == NAMES
    assert table.classes == ("cat", "dog", "hen")
    assert table.labels.tolist() == [
        [1, 1, 0],
        [0, 0, 0],
        [UNKNOWN, UNKNOWN, UNKNOWN],
        [1, 0, UNKNOWN],
        [0, 0, 1],
    ]


def test_it_is_a_source_of_data(folder):
    path = written(folder, exported(folder))
    (folder / "categories.csv").write_text("Labels\nhen\ndog\ncat\n")
    data = Data(source="label_studio", categories=str(folder / "categories.csv"))
    table = read_table(data, str(path), str(folder / "photos"))
    assert table.classes == ("hen", "dog", "cat")
    assert table.labels[0].tolist() == [0, 1, 1]


def test_own_tasks_come_back_with_their_file_names(folder):
    present = np.array([[True, False]])
    (task,) = tasks(["sub/e.jpg"], ["elsewhere/e.jpg"], present, np.array([0.5]), ("cat", "dog"))
    task["annotations"] = [annotation(choices("dog"))]
    table = read(folder, [task], classes=("cat", "dog"))
    assert table.filenames == ("sub/e.jpg",) and table.labels.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tasks: tasks[0].pop("annotations"),
            r"tasks\[0\] has no data and annotations; .*MIN",
        ),
        (lambda tasks: tasks[1]["data"].pop("image"), r"tasks\[1\]: its data has no image 'image'"),
        (lambda tasks: tasks.clear(), "is no list of tasks; data.source='label_studio' needs"),
        (
            lambda tasks: tasks[4]["annotations"][0]["result"].append(choices("blurred", tag="q")),
            "choices of the tags 'classes', 'q'; set data.label_column to one",
        ),
        (lambda tasks: tasks[2]["data"].update(image="gone.jpg"), r"tasks\[2\].*gone\.jpg"),
        (
            lambda tasks: [task.update(annotations=[]) for task in tasks],
            "no task has an annotation with choices; label some first",
        ),
    ],
)
def test_a_mistake_names_the_file_and_the_task(folder, change, message):
    content = exported(folder)
    change(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(folder, content)
    assert "export.json" in str(caught.value) and "\n" not in str(caught.value)


def test_foreign_choices_are_refused(folder):
    with pytest.raises(ValueError, match="has the choices 'hen', which are not classes of train"):
        read(folder, exported(folder), classes=("cat", "dog"))


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_label_studios_converter_reads_the_same_choices(folder):
    converter = pytest.importorskip("label_studio_sdk.converter")
    content = [task for task in exported(folder) if len(task["annotations"]) == 1]
    path, classes = written(folder, content), ("cat", "dog", "hen")
    own = read_label_studio(path, folder / "photos", classes=classes)
    out = folder / "converted"
    converter.Converter(INTERFACE, str(folder)).convert_to_json_min(str(path), str(out), False)
    rows = json.loads((out / "result.json").read_text())
    labels = {}
    for row in rows:
        chosen = row.get("classes", [])
        chosen = chosen["choices"] if isinstance(chosen, dict) else [chosen] * bool(chosen)
        labels[row["id"]] = [int(name in chosen) for name in classes]
    cancelled = [task["annotations"][0]["was_cancelled"] for task in content]
    expected = [
        [UNKNOWN] * 3 if was_cancelled else labels.get(task["id"], [0, 0, 0])
        for task, was_cancelled in zip(content, cancelled, strict=True)
    ]
    assert own.labels.tolist() == expected
    assert sum(map(sum, labels.values())) >= 3
