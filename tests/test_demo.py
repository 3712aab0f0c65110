"""The demo's data: correct labels, disjoint splits, reproducible, and not made twice."""

import csv
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcls_jax import demo
from mlcls_jax.config.loading import load_config
from mlcls_jax.config.named import config_folder

# ml_collections loads a config file by a method that Python has deprecated.
COUNTS = {"train": 6, "val": 3, "seed": 0}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def modification_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_csv_is_like_a_users_and_names_every_image(tmp_path):
    assert demo.make(tmp_path, **COUNTS)
    with open(tmp_path / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["filename", *demo.CLASSES, "split"]
    assert [row["split"] for row in rows] == ["train"] * 6 + ["val"] * 3
    assert {row["filename"] for row in rows} == {p.name for p in (tmp_path / "images").iterdir()}
    for row in rows:
        with Image.open(tmp_path / "images" / row["filename"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (128, 128))
        assert 1 <= sum(row[name] == "1" for name in demo.CLASSES) <= 4
        assert all(row[name] in "01" for name in demo.CLASSES)


def test_labels_are_the_painted_digits():
    _, targets = demo.load_drawings()
    for scene in demo.plan(50, 50, 0):
        painted = {int(targets[digit.sample]) for digit in scene.digits}
        assert scene.row[1:11] == [str(int(value in painted)) for value in range(10)]
        assert len(painted) == len(scene.digits)


def test_every_digit_is_visible():
    (drawings, _), photos = demo.load_drawings(), demo.load_photos()
    for scene in demo.plan(20, 20, 1):
        whole = np.asarray(demo.render(scene, drawings, photos), int)
        for digit in scene.digits:
            assert 0 <= digit.left <= 128 - digit.size and 0 <= digit.top <= 128 - digit.size
            others = tuple(other for other in scene.digits if other != digit)
            without = demo.Scene(**{**vars(scene), "digits": others})
            changed = np.abs(whole - np.asarray(demo.render(without, drawings, photos), int))
            assert (changed.max(axis=2) > 40).sum() > 0.05 * digit.size**2


def test_digits_overlap_little():
    for scene in demo.plan(200, 0, 0):
        boxes = [(digit.left, digit.top, digit.size) for digit in scene.digits]
        for one, other in combinations(boxes, 2):
            painted = np.zeros((2, 128, 128), bool)
            for layer, (left, top, size) in zip(painted, (one, other), strict=True):
                layer[top : top + size, left : left + size] = True
            assert painted.all(axis=0).sum() <= 0.15 * painted.sum(axis=(1, 2)).min()


def test_splits_share_no_drawing_and_no_part_of_a_photograph():
    scenes = list(demo.plan(400, 400, 0))
    drawings = {
        split: {digit.sample for scene in scenes if scene.split == split for digit in scene.digits}
        for split in demo.SPLITS
    }
    assert not drawings["train"] & drawings["val"]
    for photo in range(2):
        of_photo = [scene for scene in scenes if scene.photo == photo]
        right_of_train = max(s.crop[0] + s.crop[2] for s in of_photo if s.split == "train")
        assert right_of_train <= min(s.crop[0] for s in of_photo if s.split == "val")


def test_images_depend_on_the_seed(tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        demo.make(tmp_path / name, **{**COUNTS, "seed": seed})
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_complete_data_are_not_written_again(tmp_path):
    demo.make(tmp_path, **COUNTS)
    before = modification_times(tmp_path)
    assert not demo.make(tmp_path, **COUNTS)
    assert modification_times(tmp_path) == before


@pytest.mark.parametrize("lost", ["labels.csv", "images/train_00004.jpg", "images/val_00000.jpg"])
def test_incomplete_data_are_made_again(tmp_path, lost):
    demo.make(tmp_path, **COUNTS)
    before = contents(tmp_path)
    (tmp_path / lost).unlink()
    assert demo.make(tmp_path, **COUNTS)
    assert contents(tmp_path) == before


def test_an_interrupted_run_leaves_no_csv(tmp_path, monkeypatch):
    demo.make(tmp_path, **COUNTS)
    before, render = contents(tmp_path), demo.render

    def interrupted(scene, *rest):
        if scene.name == "train_00003.jpg":
            raise KeyboardInterrupt
        return render(scene, *rest)

    (tmp_path / "images/val_00001.jpg").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(demo, "render", interrupted)
        demo.make(tmp_path, **COUNTS)
    assert not (tmp_path / "labels.csv").exists()
    assert demo.make(tmp_path, **COUNTS)
    assert contents(tmp_path) == before


def test_other_counts_replace_the_images(tmp_path):
    demo.make(tmp_path, **COUNTS)
    assert demo.make(tmp_path, train=2, val=2, seed=0)
    assert len(list((tmp_path / "images").iterdir())) == 4


def run(*arguments, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "mlcls_jax.demo", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


def test_command_prints_one_line_with_the_next_command(tmp_path):
    first, second = (run("--train", 2, "--val", 1, cwd=tmp_path) for _ in range(2))
    assert (first.stderr, second.stderr) == ("", "")
    after = "2 training and 1 validation images in data/demo; next: python -m mlcls_jax.train"
    after += " --config demo --workdir runs/demo\n"
    assert first.stdout == f"Wrote {after}"
    assert second.stdout == f"Nothing to do; already complete: {after}"


def test_the_demos_config_reads_the_default_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--train", "2", "--val", "1"]) == 0
    data = load_config(str(config_folder() / "demo.py"), []).data
    assert Path(data.csv).is_file() and Path(data.images).is_dir()
    assert "--config.data" not in capsys.readouterr().out


def test_another_folder_is_named_in_the_next_command(tmp_path, capsys):
    out = tmp_path / "two words"
    assert demo.main(["--out", str(out), "--train", "2", "--val", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"'--config.data.csv={out}/labels.csv' '--config.data.images={out}/images'" in printed


def test_a_users_csv_is_kept(tmp_path):
    users = tmp_path / "labels.csv"
    users.write_text("filename,dog\na.jpg,1\n")
    with pytest.raises(ValueError, match="isn't the demo's; choose another folder"):
        demo.main(["--out", str(tmp_path)])
    assert users.read_text() == "filename,dog\na.jpg,1\n"
    with pytest.raises(ValueError, match="is a file; choose a folder"):
        demo.main(["--out", str(users)])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--train", 0), "error: --train is 0; use 1 to 100000\n"),
        (("--val", 100_001), "error: --val is 100001; use 1 to 100000\n"),
        (("--seed", -1), "error: --seed is -1; use 0 or more\n"),
    ],
)
def test_a_number_out_of_range_is_refused(tmp_path, arguments, line):
    refused = run(*arguments, cwd=tmp_path)
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", line)
    assert not list(tmp_path.iterdir())
