"""Every example of docs/extending.md and docs/api.md runs, on a small network and few images."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import mlcls_jax as ml

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.S | re.M)


@pytest.fixture
def small(photos, tiny, tmp_path, monkeypatch):
    """Replaces "lite0" by a small network, in a folder with labels.csv, photos and photo.jpg."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(photos / "labels.csv", tmp_path)
    shutil.copy(photos / "00.png", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)

    def config(name, data=None, **fields):
        data = ml.Data("csv", "labels.csv", "photos", batch_size=16, eval_batch_size=8)
        model = ml.Model(variant=tiny, weights="", image_size=32)
        phases = [ml.Phase("head", "1 step", [ml.Group("head/.*", 1e-2)], cached_views=1)]
        phases += [ml.Phase("finetune", "2 steps", [ml.Group(".*", 1e-3)])]
        return ml.Config(data=data, model=model, phases=phases, recipe="none")

    monkeypatch.setattr(ml, "config", config)
    return config


def names_of_sections(page: str) -> list[str]:
    return [re.findall(r"runs/(\w+)", text)[0] for text in blocks(page)[1:]]


@pytest.mark.parametrize("name", names_of_sections("extending.md"))
def test_an_extension(name, small, tmp_path):
    setup, *examples = blocks("extending.md")
    (example,) = [text for text in examples if f"runs/{name}" in text]
    namespace = {"__name__": __name__}  # functions get a module that this process knows
    exec(setup, namespace)
    if name in ("convnext", "nnx"):
        namespace["config"].model = ml.Model(weights="", image_size=32)
    exec(example, namespace)
    run = namespace["run"]
    assert run.is_finished
    assert list(run.history.index) == [1, 3]
    named = [run.config.loss.custom, run.config.augment.custom, run.config.model.custom]
    expected = {"hinge": "hinge", "stripe": "stripe", "convnext": "ConvNeXt", "nnx": "make_net"}
    assert [value.split(":")[1] for value in named if value] == [
        value for key, value in expected.items() if key == name
    ]
    assert run.load().predict("photo.jpg").shape == (1, 3)


def test_every_kind_of_extension_has_an_example():
    text = (DOCS / "extending.md").read_text("utf-8")
    for argument in ("loss", "augment", "network", "loggers", "metrics", "batches"):
        assert re.search(rf"^run = ml\.train\(.*\b{argument}=", text, re.M), argument


def test_the_examples_of_the_api(small, tmp_path):
    namespace: dict = {"__name__": __name__}
    *examples, pretrained = blocks("api.md")
    for text in examples:
        exec(text, namespace)
    assert namespace["probabilities"].shape == (1, 3)
    assert namespace["features"].ndim == 2
    assert namespace["result"].metrics["mAP"] <= 1
    assert namespace["path"].is_file()
    namespace["your_images"] = np.zeros((1, 224, 224, 3), np.float32)
    exec(pretrained, namespace)
    assert namespace["logits"].shape == (1, 1000)
