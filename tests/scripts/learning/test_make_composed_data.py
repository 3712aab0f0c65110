"""Composed images: exact labels, no object in two folds, reproducible, one-line errors."""

import csv
from itertools import combinations
from pathlib import Path

import make_composed_data as composed
import numpy as np
import pytest
from PIL import Image, ImageDraw

OPTIONS = {"images": 40, "size": 96, "seed": 0}


def write_stamps(folder: Path, green: str) -> Path:
    """Blobs with alpha for all of CUT_OUTS: green for one class, magenta for the others."""
    label, place = "", folder
    for token in composed.CUT_OUTS.split():
        if token.endswith(":"):
            label = token[:-1]
        elif token.endswith("/"):
            place = folder / token
            place.mkdir(parents=True, exist_ok=True)
        else:
            prefix = token.replace("[!b]", "a").replace("[1-9]", "1")
            names = [prefix.replace("*", f"x{i}") for i in range(5)] if "*" in token else None
            for number, name in enumerate(names or token.split("+")):
                blob = Image.new("RGBA", (24, 20 + number))
                colour = (0, 255, 0, 255) if label == green else (255, 0, 255, 255)
                ImageDraw.Draw(blob).ellipse((2, 2, 21, 17 + number), fill=colour)
                blob.save(place / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def stamps(tmp_path_factory) -> Path:
    return write_stamps(tmp_path_factory.mktemp("stamps"), green="coin")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_labels_are_the_painted_objects(stamps, tmp_path):
    composed.make(stamps, tmp_path, **OPTIONS)
    with open(tmp_path / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["filename", *composed.CLASSES, "fold"]
    assert {row["filename"] for row in rows} == {p.name for p in (tmp_path / "images").iterdir()}
    assert [row["fold"] for row in rows] == list("01234") * 8
    scenes = composed.plan(composed.find_groups(stamps, 0), 40, 0)
    for row, scene in zip(rows, scenes, strict=True):
        painted = {cut_out.label for cut_out in scene.objects}
        assert {name for name in composed.CLASSES if row[name] == "1"} == painted
        assert len(painted) == len(scene.objects) <= 5
        with Image.open(tmp_path / "images" / row["filename"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 96))
            pixels = np.asarray(image).astype(int)
        is_green = pixels[..., 1] - pixels[..., [0, 2]].max(-1) > 120
        assert (is_green.sum() > 50) == (row["coin"] == "1"), row["filename"]
    assert 0 < sum(row["coin"] == "1" for row in rows) < 40


def test_no_object_is_in_two_folds(stamps):
    scenes = list(composed.plan(composed.find_groups(stamps, 0), 400, 0))
    shown = [{o.path for s in scenes if s.fold == fold for o in s.objects} for fold in range(5)]
    assert all(shown)
    assert not any(one & other for one, other in combinations(shown, 2))


def test_photographs_of_the_same_thing_share_a_group(stamps):
    for groups in composed.find_groups(stamps, 3).values():
        of = {cut_out.path.stem: k for k, group in enumerate(groups) for cut_out in group}
        for token in (token for token in composed.CUT_OUTS.split() if "+" in token):
            assert len({of[name] for name in token.split("+") if name in of}) <= 1


def test_the_same_seed_gives_the_same_bytes(stamps, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        composed.make(stamps, tmp_path / name, images=6, size=64, seed=seed)
    assert contents(tmp_path / "one") == contents(tmp_path / "again")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")
    composed.make(stamps, tmp_path / "one", images=5, size=64, seed=0)
    fewer, more = contents(tmp_path / "one"), contents(tmp_path / "again")
    assert len(fewer) == 6 and all(fewer[name] == more[name] for name in fewer if "jpg" in name)


def test_every_object_stays_visible():
    patches = [Image.new("RGBA", (40, 40), "red") for _ in range(5)]
    placed = composed._arrange(np.random.default_rng(0), patches, 64)
    assert min(composed.visible_shares(placed, 64)) >= composed.LEAST_VISIBLE
    half = [(patches[0], 0, 0), (patches[1], 20, 0)]
    assert composed.visible_shares(half, 64) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "is missing; use usr/share/tuxpaint/stamps of the package"),
        (["--images", "4"], "--images is 4; use 5 or more"),
        (["--size", "8"], "--size is 8; use 32 or more"),
        (["--seed", "-1"], "--seed is -1; use 0 or more"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    required = ["--stamps", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]
    assert composed.main([*required, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("make_composed_data: ") and message in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_other_data_are_left_alone(stamps, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("filename,cat\n")
    assert composed.main(["--stamps", str(stamps), "--out", str(tmp_path)]) == 2
    assert "isn't from this script" in capsys.readouterr().err
    assert contents(tmp_path) == {"labels.csv": b"filename,cat\n"}


def test_a_class_with_too_few_objects_and_a_bad_stamp_are_one_line(tmp_path, capsys):
    stamps = write_stamps(tmp_path / "stamps", green="coin")
    options = ["--stamps", str(stamps), "--out", str(tmp_path / "out"), "--size", "64"]
    for path in (stamps / "plants/flowers").iterdir():
        Image.new("RGBA", (9, 9)).save(path)
    assert composed.main([*options, "--images", "40"]) == 2
    assert "is fully transparent" in capsys.readouterr().err
    for path in sorted((stamps / "plants/flowers").iterdir())[1:]:
        path.unlink()
    assert composed.main(options) == 2
    assert "has too few objects of flower: 1; use" in capsys.readouterr().err
