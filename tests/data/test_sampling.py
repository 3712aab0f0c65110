"""The order and the random numbers are functions of (seed, epoch, index)."""

import numpy as np
import pytest

from mlcls_jax.data.sampling import (
    REPEAT,
    SUBSTITUTE,
    Repeats,
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


def uneven(images: int) -> Repeats:
    return Repeats(np.random.default_rng(images).choice([1.0, 1.7, 4.0, 10.0], images))


@pytest.mark.parametrize("images", [1, 2, 41, 500])
def test_repeats_are_in_each_epoch_as_often_as_expected_but_for_rounding(images):
    repeats, counts = uneven(images), []
    for epoch in range(300):
        positions = np.arange(epoch * images, (epoch + 1) * images)
        epochs, indices = stream_order(positions, images, 5, repeats)
        assert set(epochs % REPEAT) == {epoch}
        counts.append(np.bincount(indices, minlength=images))
        for index in np.flatnonzero(counts[-1] > 1):  # the first place, the second place, …
            assert sorted(epochs[indices == index] // REPEAT) == list(range(counts[-1][index]))
    expected = repeats.expected
    assert expected.sum() == pytest.approx(images)
    counts = np.array(counts)
    assert (np.abs(counts - expected) < 1 + 1e-9).all()
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=0.15)
    assert np.mean((counts > 0).sum(axis=1)) == pytest.approx(repeats.distinct, rel=0.02)


def test_repeats_are_in_random_order_and_pairs_are_independent():
    images, epochs = 60, 2000
    repeats = Repeats(np.where(np.arange(images) < 20, 2.0, 1.0))
    _, indices = stream_order(np.arange(epochs * images), images, 0, repeats)
    orders = indices.reshape(epochs, images)
    assert len({tuple(order) for order in orders}) == epochs
    places = np.array([(orders == index).sum(axis=0) for index in (3, 50)])
    # Each image is at each place in equally many epochs, up to chance.
    expected = repeats.expected[[3, 50]] * epochs / images
    assert (np.abs(places - expected[:, None]) < 5 * np.sqrt(expected)[:, None]).all()
    counts = np.array([np.bincount(order, minlength=images) for order in orders])
    together = np.corrcoef(counts[:, :2].T)[0, 1]  # neighbours in the table
    assert abs(together) < 0.1


def test_positions_of_repeats_may_be_in_any_order():
    repeats = uneven(41)
    positions = np.array([90, 3, 40, 41, 3, 122, 0, 81])
    epochs, indices = stream_order(positions, 41, 5, repeats)
    whole = stream_order(np.arange(123), 41, 5, repeats)
    np.testing.assert_array_equal(epochs, whole[0][positions])
    np.testing.assert_array_equal(indices, whole[1][positions])


def test_each_repeat_has_random_numbers_of_its_own():
    repeats = Repeats(np.array([8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]))
    epochs, indices = stream_order(np.arange(27), 9, 0, repeats)
    drawn = uniforms(0, epochs, indices, 3)
    assert (indices == 0).sum() >= 12
    assert len({tuple(row) for row in drawn}) == 27
    for row, epoch, index in zip(drawn, epochs, indices, strict=True):
        np.testing.assert_array_equal(row, generator(0, int(epoch), int(index)).random(3))
