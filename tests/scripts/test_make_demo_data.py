"""The demo's data: correct labels, disjoint splits, reproducible, and not made twice."""

import csv
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import make_demo_data as demo
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

SCRIPT = Path(__file__).parents[2] / "scripts/make_demo_data.py"
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
    targets = np.asarray(load_digits(return_X_y=True)[1])
    for scene in demo.plan(50, 50, 0):
        painted = {int(targets[digit.sample]) for digit in scene.digits}
        assert scene.row[1:11] == [str(int(value in painted)) for value in range(10)]
        assert len(painted) == len(scene.digits)


def test_every_digit_is_visible():
    drawings = np.reshape(load_digits(return_X_y=True)[0], (-1, 8, 8))
    photos = load_sample_images().images
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


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_prints_one_line(tmp_path):
    arguments = ("--out", tmp_path / "demo", "--train", 2, "--val", 1)
    first, second = run(*arguments), run(*arguments)
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout.startswith("wrote 2 training and 1 validation images")
    assert second.stdout.startswith("nothing to do")
    assert first.stdout.count("\n") == second.stdout.count("\n") == 1


def test_bad_arguments_are_reported_and_a_users_csv_is_kept(tmp_path, capsys):
    users = tmp_path / "labels.csv"
    users.write_text("filename,dog\na.jpg,1\n")
    assert demo.main(["--out", str(tmp_path)]) == 2
    assert "isn't the demo's; choose another folder" in capsys.readouterr().err
    assert users.read_text() == "filename,dog\na.jpg,1\n"
    assert demo.main(["--out", str(users)]) == 2
    assert "is a file; choose a folder" in capsys.readouterr().err
    assert demo.main(["--out", str(tmp_path / "new"), "--train", "0"]) == 2
    assert capsys.readouterr().err == "make_demo_data: --train is 0; use 1 or more\n"
    assert not (tmp_path / "new").exists()
