"""Which classes are explained, and what their files are called."""

import re

import numpy as np
import pytest

from mlcls_jax.overlays import MOST, choose, file_name


def test_those_that_are_there_the_most_probable_first():
    probabilities = np.array([[0.2, 0.9, 0.6, 0.8], [0.1, 0.2, 0.3, 0.4]])
    present = np.array([[True, True, False, True], [False] * 4])
    np.testing.assert_array_equal(choose(probabilities, present), [[1, 3, 0, -1], [-1] * 4])
    assert choose(probabilities, present).dtype == np.int32


def test_of_many_classes_only_the_first():
    probabilities = np.linspace(0.9, 0.5, 80)[None]
    chosen = choose(probabilities, np.ones((1, 80), bool))
    np.testing.assert_array_equal(chosen, np.arange(MOST)[None])


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("sub/park.jpg", "dog"),
        ("../../etc/passwd", "../x"),
        ("a\nb\0.jpg", "<script>"),
        ("犬" * 200 + ".png", "𠀀" * 200),
        (".jpg", ""),
    ],
)
def test_names_are_safe_whatever_pictures_and_classes_are_called(picture, label):
    name = file_name(2, 0, picture, label)
    assert re.fullmatch(r"00003-1_[\w-]*\.png", name)
    assert len(name.encode()) <= 255


def test_names_are_of_one_picture_and_class_only():
    names = {file_name(i, rank, "a.jpg", "a b") for i in range(3) for rank in range(3)}
    assert len(names) == 9
    assert file_name(2, 0, "sub/park.jpg", "dog") == "00003-1_park_dog.png"
