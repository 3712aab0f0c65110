"""The images, the tables, and the sides that run in the environment of the tests."""

import importlib
import random

import compare_input
import input_ours
import input_side
import numpy as np
import peer_environments
import pytest
from compare_input import SIDES, Measured, likeness_table, parse, table
from input_images import ensure_images, mean_kilobytes
from input_likeness import mean_likeness, psnr
from PIL import Image, ImageOps

from mlcls_jax.cli import run
from mlcls_jax.data.loaders.loader import LOADERS
from mlcls_jax.data.readers.csv_labels import read_labels

COUNT = 6


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return ensure_images(tmp_path_factory.mktemp("images"), compare_input.PHOTOS, COUNT)


def read(path):
    with Image.open(path) as file:
        return file.convert("RGB")


def steps(side, images, size, batch):
    module = importlib.import_module(SIDES[side].module)
    return module.build(side, str(images[0].parent), size, batch)["batch"]


def test_images_are_distinct_photographs_of_one_size_with_labels(images):
    opened = [read(path) for path in images]
    assert len({image.tobytes() for image in opened}) == len(images) == COUNT
    assert {image.size for image in opened} == {(640, 480)}
    assert 20 < mean_kilobytes(images) < 200
    labels = read_labels(images[0].parent / "labels.csv", images[0].parent)
    assert labels.paths == [str(path) for path in images]
    assert labels.labels.shape == (COUNT, 80) and (labels.labels.sum(axis=1) == 5).all()


def test_images_are_reproducible_and_not_made_twice(images, tmp_path):
    again = ensure_images(tmp_path / "new", compare_input.PHOTOS, COUNT - 1)
    assert [path.read_bytes() for path in again] == [p.read_bytes() for p in images[:-1]]
    again[0].write_bytes(b"kept")
    assert ensure_images(tmp_path / "new", tmp_path / "nowhere", 1) == again
    assert again[0].read_bytes() == b"kept"


def test_images_may_have_other_sides(tmp_path):
    (small,) = ensure_images(tmp_path / "small", compare_input.PHOTOS, 1, (16, 8))
    assert read(small).size == (16, 8)


def test_photographs_of_any_format_are_turned_upright(tmp_path):
    photo = ImageOps.expand(Image.new("RGB", (300, 400), "red"), (0, 0, 300, 0), "blue")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    photo.save(tmp_path / "photo.PNG", exif=exif)
    (tmp_path / "notes.txt").touch()
    (cut,) = ensure_images(tmp_path / "cut", tmp_path, 1)
    left, right = (read(cut).getpixel((column, 240)) for column in (0, 639))
    assert left[2] > 200 > left[0] and right[0] > 200 > right[2]


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--photos \S+ contains no photographs"):
        ensure_images(tmp_path / "new", tmp_path, 1)


def test_table():
    results = [
        {
            "raw": Measured(0.5, 60_000_000, [1000.0, 1100.0, 900.0]),
            "ours": Measured(2.0, 200_400_000, [500.0, 990.0, 450.0]),
        },
        {"raw": Measured(0.5, 60_000_000, [100.0]), "ours": Measured(2.0, 300_000_000, [8.0])},
    ]
    columns = ("images/s", "of the limit", "start, s", "memory, MB")
    assert table(results, ("raw", "ours"), (224, 456)).splitlines() == [
        f"|  | 224 px, {' | '.join(columns)} | 456 px, {' | '.join(columns)} |",
        f"|{' --- |' * 9}",
        "| simplejpeg, full decoding only | 1000.0 (900.0–1100.0) | 1.00 | 0.5 | 60 "
        "| 100.0 (100.0–100.0) | 1.00 | 0.5 | 60 |",
        "| ours, threads | 500.0 (450.0–990.0) | 0.50 | 2.0 | 200 "
        "| 8.00 (8.00–8.00) | 0.08 | 2.0 | 300 |",
    ]


def test_table_without_the_limit_has_no_ratio():
    rows = table([{"ours": Measured(2.0, 1_000_000, [8.0])}], ("ours",), (224,)).splitlines()
    assert rows[2] == "| ours, threads | 8.00 (8.00–8.00) | – | 2.0 | 1 |"


def test_likeness_table():
    rows = likeness_table({"bilinear": [41.04, 50.0]}, (224, 456)).splitlines()
    assert rows[0] == "| ours compared with Pillow | 224 px, dB | 456 px, dB |"
    assert rows[2] == "| bilinear | 41.0 | 50.0 |"


def test_psnr():
    black, grey = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 51, np.uint8)
    assert psnr(black, grey) == psnr(grey, black) == pytest.approx(20 * np.log10(5))
    assert psnr(grey, grey) == float("inf")


def test_our_images_are_similar_to_pillows(images):
    likeness = mean_likeness(images[:2], (224, 456))
    assert set(likeness) == {"bilinear", "bicubic"}
    assert all(34 < value < 100 for values in likeness.values() for value in values)


def test_a_random_box_is_inside_with_the_published_shares():
    rng = random.Random(0)
    boxes = np.array([input_side.random_box(rng, 640, 480) for _ in range(1000)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= 640).all() and (bottom <= 480).all()
    shares, ratios = (right - left) * (bottom - top) / (640 * 480), (right - left) / (bottom - top)
    assert 0.078 < shares.min() < 0.1 and shares.max() > 0.95
    assert 0.74 < ratios.min() < 0.78 and 1.3 < ratios.max() < 1.35


def test_a_box_that_never_fits_is_the_largest_in_the_middle():
    assert input_side.random_box(random.Random(0), 1000, 10) == (493, 0, 506, 10)
    assert input_side.random_box(random.Random(0), 10, 1000) == (0, 493, 10, 506)


OURS = [side for side in SIDES if SIDES[side].module == "input_ours"]
OTHER_LOADERS = [side for side in OURS if "tf-data" in side or "grain" in side]


@pytest.mark.parametrize("side", sorted(set(OURS) - set(OTHER_LOADERS)))
def test_our_batches_continue_after_the_last_image(side, images):
    check_batches(steps(side, images, 32, 4))


@pytest.mark.reference
@pytest.mark.parametrize("side", OTHER_LOADERS)
def test_batches_of_our_other_loaders(side, images):
    check_batches(steps(side, images, 32, 4))
    assert ("tensorflow 2" if "tf-data" in side else "grain 0") in input_ours.versions()


def test_our_sides_are_each_loader_with_and_without_augmentation():
    assert set(OURS) == set(input_ours.SIDES)
    augments = [input_ours.PLAIN, input_ours.CROP, input_ours.RAND_AUGMENT]
    for loader in LOADERS:
        assert [a for name, a in input_ours.SIDES.values() if name == loader][:3] == augments


def check_batches(step):
    for _ in range(3):
        image = np.asarray(step().image)
        assert image.shape == (4, 32, 32, 3) and image.dtype == np.uint8 and image.std() > 10


def test_the_limit_decodes_every_image_in_turn(images, monkeypatch):
    import input_raw

    decoded = []
    monkeypatch.setattr(input_raw, "_decode", decoded.append)
    monkeypatch.setattr(input_raw, "cores", lambda: 1)  # several threads append in any order
    step = steps("raw", images, 32, 4)
    for _ in range(3):
        assert step() is None
    paths = list(map(str, images))
    assert decoded[:12] == 2 * paths


@pytest.mark.reference
def test_crops_of_the_torch_side(images):
    import input_torch

    first, again = (input_torch.Images([str(images[0])], 32)[0] for _ in range(2))
    assert first.shape == (32, 32, 3) and str(first.dtype) == "torch.uint8"
    assert (first != again).any()


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    arguments = ["--sides", "raw,ours", "--sizes", "32", "--rounds", "1", "--seconds", "0.05"]
    folder = tmp_path / "images"
    arguments += ["--images", "3", "--folder", str(folder), "--malloc", "heap-kept"]
    assert compare_input.main(arguments) == 0
    speeds, likeness, setup = capsys.readouterr().out.strip().split("\n\n")
    assert [row.split(" | ")[0] for row in speeds.splitlines()[2:]] == [
        "| simplejpeg, full decoding only",
        "| ours, threads",
    ]
    assert all(row.count("|") == 6 for row in speeds.splitlines())
    assert likeness.count("\n") == 3
    assert " cores; malloc: glibc." in setup and "; 3 images of " in setup
    assert "simplejpeg 1" in setup and "mlcls_jax 0" in setup and len(list(folder.iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sides raw,nvjpeg", "argument --sides: 'nvjpeg' is none of raw, keras-flow,"),
        ("--sizes 224,0", "argument --sizes: 0 is not above 0"),
        ("--sizes big", "argument --sizes: invalid"),
        ("--speed 3", "unrecognized arguments: --speed 3"),
    ],
)
def test_invalid_options_are_one_line_and_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare_input.py", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        run(compare_input.main)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_every_environment_is_known(monkeypatch):
    monkeypatch.setattr(peer_environments, "ensure", lambda folder, pins: (folder.name, pins))
    args = parse([])
    for side in args.sides:
        name = SIDES[side].environment
        assert not name or name in compare_input.python_of(side, args.environments)
