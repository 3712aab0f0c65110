"""The order and the random numbers are functions of (seed, epoch, index)."""

import numpy as np
import pytest

from mlcls_jax.data.sampling import (
    SUBSTITUTE,
    generator,
    image_random,
    stream_order,
    substitutes,
    uniforms,
)


def test_every_epoch_is_another_permutation():
    orders = []
    for epoch in range(3):
        epochs, indices = stream_order(np.arange(epoch * 41, epoch * 41 + 41), 41, seed=5)
        assert set(epochs) == {epoch}
        assert sorted(indices) == list(range(41))
        orders.append(indices)
    assert (orders[0] != orders[1]).any() and (orders[1] != orders[2]).any()
    assert (orders[0] != stream_order(np.arange(41), 41, seed=6)[1]).any()


def test_positions_may_be_in_any_order():
    positions = np.array([90, 3, 40, 41, 3, 122])
    epochs, indices = stream_order(positions, 41, seed=5)
    for position, epoch, index in zip(positions, epochs, indices, strict=True):
        alone = stream_order(np.array([position]), 41, seed=5)
        assert (epoch, index) == (alone[0][0], alone[1][0]) and epoch == position // 41


def test_random_numbers_differ_between_images_epochs_seeds_and_purposes():
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0, SUBSTITUTE)]
    draws = [generator(*key).random(4) for key in keys]
    assert len({tuple(draw) for draw in draws}) == len(keys)
    np.testing.assert_array_equal(draws[1], generator(0, 0, 1).random(4))


def test_the_numbers_of_neighbours_are_uniform_and_uncorrelated():
    draws = np.array([generator(3, 7, index).random(2) for index in range(4000)])
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(draws.std(axis=0), 12**-0.5, atol=0.02)
    for a, b in ((draws[:-1, 0], draws[1:, 0]), (draws[:, 0], draws[:, 1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


@pytest.mark.parametrize("seed", [0, 42, 2**63 - 1])
@pytest.mark.parametrize("count", [0, 1, 4, 41])
def test_the_numbers_of_a_batch_are_those_of_numpys_generators(seed, count):
    epochs, indices = np.array([0, 1, 2**40, 7]), np.array([5, 0, 12_345_678, 2**33])
    expected = [
        generator(seed, int(epoch), int(index)).random(count)
        for epoch, index in zip(epochs, indices, strict=True)
    ]
    np.testing.assert_array_equal(uniforms(seed, epochs, indices, count), expected)


def test_the_rest_of_the_numbers_follows_those_drawn():
    numbers = generator(3, 1, 2).random(50)
    random = image_random(3, 1, 2, 41)
    np.testing.assert_array_equal(random.uniforms, numbers[:41])
    np.testing.assert_array_equal(random.rest().random(9), numbers[41:])
    np.testing.assert_array_equal(random.rest().random(9), numbers[41:])


def test_substitutes_end_if_nothing_can_be_read():
    others = substitutes(0, 1, 2, 40)
    with pytest.raises(ValueError, match=r"cannot be read; check data\.images"):
        assert all(0 <= other < 40 for other in others)
    assert next(substitutes(0, 1, 2, 40)) == next(substitutes(0, 1, 2, 40))
