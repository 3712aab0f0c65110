"""The data card of a whole run: before the first step, once, and in the report."""

import csv
import dataclasses
import errno
import json

import pytest
from PIL import Image

from mlcls_jax.api.training import Run
from mlcls_jax.benchmark.dry_run import dry_run
from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.data.card.data_card import DataCard
from mlcls_jax.data.card.describe import near_warning
from mlcls_jax.data.card.file_facts import FileFacts
from mlcls_jax.data.card.label_facts import LabelFacts
from mlcls_jax.run import data_card
from mlcls_jax.run.data_card import read_card
from mlcls_jax.run.workdir import DATA_CARD, REPORT
from mlcls_jax.train import train
from mlcls_jax.training import data_card as module


@pytest.fixture
def folder(photos, tmp_path):
    """The photos with a split column; 03 of val is 01 of train, and 05 is black."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in photos.glob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "03.png").write_bytes((photos / "01.png").read_bytes())
    Image.new("RGB", (48, 40), (9, 9, 9)).save(folder / "05.png")
    rows = list(csv.reader((photos / "labels.csv").read_text().splitlines()))
    split = ["split", *["val" if i % 4 == 3 else "train" for i in range(len(rows) - 1)]]
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([*row, part] for row, part in zip(rows, split, strict=True))
    return folder


def make_config(folder, variant: str, steps: int = 4, **data) -> Config:
    return Config(
        data=Data(csv=str(folder / "labels.csv"), images=str(folder), batch_size=8, **data),
        model=Model(variant=variant, weights="", image_size=32),
        evaluation=Evaluation(train_sample=0),
        phases=[Phase("head", f"{steps} steps", [Group("head/.*", 1e-2)])],
    )


LEAK = "1 image has the same bytes as an image of another split"


@pytest.mark.slow
def test_the_card_is_printed_before_the_first_step_and_made_once(
    folder, tiny, tmp_path, capsys, monkeypatch
):
    config, workdir = make_config(folder, tiny), tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    assert train(config, workdir) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "data │ images/labels.csv" in printed.replace("┃", "│")
    first_step = printed.index("head epoch")
    for text in (LEAK, "val '03.png' is train '01.png'", "is nearly black", "3 classes"):
        assert 0 <= printed.find(text) < first_step, text
    assert f"are in {workdir / DATA_CARD}" in printed

    card = json.loads((workdir / DATA_CARD).read_text())
    assert card["version"] == 1 and card["files"]["nearly_black"] == [["train", "05.png"]]
    assert card["files"]["duplicates"] == [[["train", "01.png"], ["val", "03.png"]]]
    assert card["labels"]["splits"]["val"]["images"] == 10
    kept = Run(workdir, True).data_card
    assert kept is not None and kept.files.leaks == [(["train", "01.png"], ["val", "03.png"])]
    page = (workdir / REPORT).read_text(encoding="utf-8")
    assert "<h2>Data</h2>" in page and LEAK in page

    def again(*_):
        raise AssertionError("a continued run has its card")

    monkeypatch.setattr(module, "make_card", again)
    assert train(config, workdir) == 0
    assert LEAK not in capsys.readouterr().out


def test_a_dry_run_shows_the_card_and_keeps_no_file(folder, tiny, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert dry_run(make_config(folder, tiny), workdir) == 0
    assert LEAK in " ".join(capsys.readouterr().out.split())
    assert not (workdir / DATA_CARD).exists()


def test_an_unreadable_image_stops_a_run_that_would_read_it(folder, tiny, tmp_path):
    (folder / "04.png").write_bytes(b"<html>")
    message = r"04\.png cannot be read: it is HTML.*data\.on_bad_image=skip"
    with pytest.raises(ValueError, match=message):
        train(make_config(folder, tiny), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_full_disk_costs_a_warning(folder, tiny, tmp_path, monkeypatch, capsys):
    def full(path, _):
        raise ValueError(f"{path} cannot be written: {OSError(errno.ENOSPC, 'No space left')}")

    monkeypatch.setattr(data_card, "write_text", full)
    workdir = tmp_path / "run"
    assert train(make_config(folder, tiny, steps=1), workdir) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "data_card.json cannot be written: [Errno 28] No space left; training" in printed
    assert not (workdir / DATA_CARD).exists() and (workdir / REPORT).exists()
    assert "<h2>Data</h2>" not in (workdir / REPORT).read_text(encoding="utf-8")


def test_images_that_look_alike_are_named_by_the_features_of_a_pretrained_network(
    trained, folder, tmp_path, capsys
):
    with Image.open(folder / "02.png") as image:
        changed = image.copy()
    changed.putpixel((0, 0), (1, 2, 3))  # another file, the same to the eye
    changed.save(folder / "07.png")
    config = make_config(folder, "tiny", steps=1)
    config.model.weights, config.recipe = str(trained), "none"
    config.phases[0].cached_views = 1
    assert train(config, tmp_path / "run") == 0
    card = read_card(tmp_path / "run")
    assert card
    pairs = {(a, b): cosine for a, b, cosine in card.near_duplicates}
    assert pairs["02.png", "07.png"] > 0.99
    out = " ".join(capsys.readouterr().out.split())
    assert "almost like one of train (features with a cosine of" in out
    assert "03.png' is like" not in out  # it has the same bytes, which is a warning of its own


def test_near_duplicates_are_a_warning_without_copies_of_the_same_bytes():
    labels = LabelFacts({"train": {"images": 2}, "val": {"images": 2}}, {}, [], [], 4)
    files = FileFacts([[["train", "a"], ["val", "b"]]], [], 4, 4, {}, {}, {}, [], [], [])
    card = DataCard([], [], labels, files, [["a", "b", 1.0], ["c", "d", 0.97]])
    assert "val 'd' is like train 'c'. If they show" in near_warning(card)
    assert "1 image of val looks almost like" in near_warning(card)
    assert near_warning(dataclasses.replace(card, near_duplicates=[["a", "b", 1.0]])) == ""
