"""The eight symmetries of the square, compared with NumPy's rot90 and flip."""

import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.config.schema import SYMMETRIES
from mlcls_jax.data.images.symmetry import random_turn, turn_image, turned, uniforms_for

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
# What each number stands for, in NumPy's words.
IN_NUMPY = (
    lambda image: image,
    np.fliplr,
    np.flipud,
    lambda image: np.rot90(image, 2),
    lambda image: np.flipud(np.rot90(image)),
    lambda image: np.rot90(image, -1),
    lambda image: np.rot90(image),
    lambda image: np.fliplr(np.rot90(image)),
)


@pytest.mark.parametrize("turn", range(8))
def test_each_symmetry_is_that_of_numpy(turn):
    expected = IN_NUMPY[turn](IMAGE)
    np.testing.assert_array_equal(turned(IMAGE, turn), expected)
    np.testing.assert_array_equal(turned(jnp.asarray(IMAGE)[None], turn)[0], expected)


def test_the_groups_are_the_mirror_image_both_mirror_images_and_all_rotations():
    def images(symmetry):
        return {turned(IMAGE, turn).tobytes() for turn in range(SYMMETRIES[symmetry])}

    rotations = [np.rot90(IMAGE, number) for number in range(4)]
    assert images("none") == {IMAGE.tobytes()}
    assert images("h") == {IMAGE.tobytes(), np.fliplr(IMAGE).tobytes()}
    assert images("hv") == images("h") | {np.flipud(IMAGE).tobytes(), rotations[2].tobytes()}
    all_eight = {image.tobytes() for whole in rotations for image in (whole, np.fliplr(whole))}
    assert images("d4") == all_eight and len(all_eight) == 8


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("turn", range(8))
def test_one_image_of_any_shape_is_turned_in_the_same_way(turn, channels):
    image = np.random.default_rng(1).integers(0, 256, (4, 7, channels), dtype=np.uint8)
    before, expected = image.copy(), turned(image, turn)
    out = np.zeros((2, *expected.shape), np.uint8)
    np.testing.assert_array_equal(turn_image(image, turn), expected)
    assert np.shares_memory(turn_image(image, turn, out[1]), out)
    np.testing.assert_array_equal(out[1], expected)
    assert not out[0].any()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_all_symmetries_of_a_group_are_equally_probable(symmetry):
    count = SYMMETRIES[symmetry]
    assert uniforms_for(symmetry) == (count > 1)
    found = [random_turn(place / 64, symmetry) for place in range(64)]
    assert np.bincount(found, minlength=count).tolist() == [64 // count] * count
