"""Which classes are explained, and the names of their files."""

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.config import Augment
from mlcls_jax.data.images.transforms import seen_box
from mlcls_jax.data.loaders.loader import make_reader
from mlcls_jax.explain.overlays import choose, file_name, write_overlays
from mlcls_jax.options.predict import MAX_CLASSES


def test_present_classes_are_chosen_most_probable_first():
    probabilities = np.array([[0.2, 0.9, 0.6, 0.8], [0.1, 0.2, 0.3, 0.4]])
    present = np.array([[True, True, False, True], [False] * 4])
    np.testing.assert_array_equal(choose(probabilities, present), [[1, 3, 0, -1], [-1] * 4])
    assert choose(probabilities, present).dtype == np.int32


def test_of_many_classes_only_the_first_are_chosen():
    probabilities = np.linspace(0.9, 0.5, 80)[None]
    chosen = choose(probabilities, np.ones((1, 80), bool))
    np.testing.assert_array_equal(chosen, np.arange(MAX_CLASSES)[None])


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("sub/park.jpg", "dog"),
        ("../../etc/passwd", "../x"),
        ("a\nb\0.jpg", "<script>"),
        ("犬" * 200 + ".png", "𠀀" * 200),
        (".jpg", ""),
    ],
)
def test_file_names_are_safe_for_all_image_and_class_names(image, label):
    name = file_name(2, 0, image, label)
    assert re.fullmatch(r"00003-1_[\w-]*\.png", name)
    assert len(name.encode()) <= 255


def test_file_names_are_unique():
    names = {file_name(i, rank, "a.jpg", "a b") for i in range(3) for rank in range(3)}
    assert len(names) == 9
    assert file_name(2, 0, "sub/park.jpg", "dog") == "00003-1_park_dog.png"


@pytest.mark.parametrize("resize", ["squash", "center_crop", "letterbox"])
def test_a_file_for_each_chosen_class_covers_what_the_network_sees(run, tmp_path, resize):
    rng, paths = np.random.default_rng(0), []
    for number in range(9):  # more than a batch
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(paths[-1])
    run = dataclasses.replace(
        run, config=dataclasses.replace(run.config, augment=Augment(eval_resize=resize))
    )
    chosen = np.array([[1, -1]] + 7 * [[-1, -1]] + [[2, 0]], np.int32)
    reader = make_reader(run.config.data, 3, len(paths))
    folder = tmp_path / "maps"
    assert write_overlays(folder, run, paths, [f"{i}" for i in range(9)], chosen, reader) == 3
    names = [
        "00001-1_0_green.png",
        "00009-1_8_blue.png",
        "00009-2_8__img_src_x_onerror_alert_.png",
    ]
    assert sorted(file.name for file in folder.iterdir()) == names
    box = seen_box(60, 90, 64, resize)
    outside = np.ones((60, 90), bool)
    top, left = max(box.top, 0), max(box.left, 0)
    outside[top : box.top + box.height, left : box.left + box.width] = False
    for name, number in zip(names, (0, 8, 8), strict=True):
        changed = (np.array(Image.open(folder / name)) != np.array(Image.open(paths[number]))).any(
            -1
        )
        assert not changed[outside].any()
    with pytest.raises(ValueError, match="already exists"):
        write_overlays(folder, run, paths, paths, chosen, reader)
