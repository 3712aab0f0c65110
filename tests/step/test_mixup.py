"""Mixup and CutMix equal loops in NumPy, on any number of devices and parts of a batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tolerances import EPS

from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.step.mixup import (
    check_pairs,
    draw_pair,
    kept_shares,
    make_mixed_inputs,
    mix_labels,
    pair_keys,
    random_box,
)
from mlcls_jax.step.train_step import make_inputs, over_devices
from mlcls_jax.system.devices import AXIS, make_mesh, sharded

ROWS, SIZE, CLASSES, SEED = 16, 12, 6, 5
INPUTS = make_inputs(Normalization((120.0, 115.0, 105.0), (58.0, 57.0, 57.5)))
MIXUP, CUTMIX, BOTH = Augment(mixup=0.8), Augment(cutmix=1.0), Augment(mixup=0.8, cutmix=1.0)


def make_batch(first: int = 0, rows: int = ROWS) -> Batch:
    rng = np.random.default_rng(first)
    return Batch(
        image=rng.integers(0, 256, (rows, SIZE, SIZE, 3), dtype=np.uint8),
        label=rng.integers(UNKNOWN, 2, (rows, CLASSES)).astype(np.int8),
        position=np.arange(first, first + rows, dtype=np.uint32),
    )


def part(batch: Batch, rows: slice) -> Batch:
    return jax.tree.map(lambda leaf: leaf[rows], batch)


def drawn(augment: Augment, pairs: int, first: int = 0):
    """Returns shares and boxes of pairs, on the host."""

    @jax.jit
    def draw(positions):
        return jax.vmap(lambda key: draw_pair(key, SIZE, augment))(pair_keys(SEED, positions))

    return jax.device_get(draw(jnp.arange(first, first + 2 * pairs, 2, dtype=jnp.uint32)))


def numpy_mixed(batch: Batch, augment: Augment):
    """Returns the expected images and labels, by loops over pairs."""
    own_pixels, own_labels = map(np.asarray, INPUTS(batch))
    pixels, labels = own_pixels.copy(), own_labels.copy()
    shares, boxes = drawn(augment, len(pixels) // 2, int(batch.position[0]))
    for row in range(len(pixels)):
        other, share = row ^ 1, shares[row // 2]
        top, bottom, left, right = boxes[row // 2]
        pixels[row] = share * own_pixels[row] + (1 - share) * own_pixels[other]
        pixels[row, top:bottom, left:right] = own_pixels[other, top:bottom, left:right]
        share = share * (1 - (bottom - top) * (right - left) / SIZE**2)
        for index in range(CLASSES):
            pair = [(own_labels[row, index], share), (own_labels[other, index], 1 - share)]
            seen = [(label, weight) for label, weight in pair if weight > 0]
            if any(label == UNKNOWN for label, _ in seen):
                labels[row, index] = UNKNOWN
            elif augment.mixed_labels == "union":
                labels[row, index] = max(label for label, _ in seen)
            else:
                labels[row, index] = sum(label * weight for label, weight in seen)
    return pixels, labels


@pytest.mark.parametrize(
    "augment", [MIXUP, replace(CUTMIX, mixed_labels="union"), BOTH], ids=["mixup", "cutmix", "both"]
)
def test_mixtures_are_those_of_loops_in_numpy(augment):
    batch = make_batch(first=32)
    with jax.numpy_dtype_promotion("strict"):
        found = jax.jit(make_mixed_inputs(INPUTS, augment, SEED))(batch)
    for ours, expected in zip(found, numpy_mixed(batch, augment), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_devices_and_parts_of_a_batch_do_not_matter():
    batch, mixed = make_batch(), make_mixed_inputs(INPUTS, BOTH, SEED)
    mesh = make_mesh(8)
    spread = over_devices(mixed, (P(AXIS),), P(AXIS), mesh)
    on_devices = jax.device_get(spread(jax.device_put(batch, sharded(mesh))))
    alone = jax.jit(mixed)
    parts = [alone(part(batch, slice(start, start + 4))) for start in range(0, ROWS, 4)]
    for ours, others in zip(on_devices, zip(*parts, strict=True), strict=True):
        # A share comes of logarithms and exponentials, each of which is rounded.
        near = 32 * EPS * np.abs(ours).max()
        np.testing.assert_allclose(ours, np.concatenate(others), rtol=0, atol=near)


def test_a_pair_is_a_function_of_seed_and_place():
    positions = jnp.arange(0, 16, 2, dtype=jnp.uint32)
    keys = jax.random.key_data(pair_keys(SEED, positions))
    np.testing.assert_array_equal(jax.random.key_data(pair_keys(SEED, positions[4:])), keys[4:])
    assert len(np.unique(keys, axis=0)) == 8
    others = jax.random.key_data(pair_keys(SEED + 1, positions))
    assert not (others == keys).all(axis=1).any()


@pytest.mark.parametrize("alpha", [0.2, 4.0])
def test_shares_are_of_the_beta_distribution(alpha):
    shares, boxes = drawn(Augment(mixup=alpha), 4000)
    assert not boxes.any()
    assert ((shares >= 0) & (shares <= 1)).all()
    np.testing.assert_allclose(shares.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(shares.var(), 1 / (4 * (2 * alpha + 1)), atol=0.01)


def test_small_alphas_hardly_mix_anything():
    shares, _ = drawn(Augment(mixup=0.01), 1000)
    assert np.isfinite(shares).all()
    assert np.mean(np.minimum(shares, 1 - shares) < 1e-3) > 0.9


def test_with_both_each_pair_takes_one():
    shares, boxes = drawn(BOTH, 2000)
    cut = shares == 1
    assert 0.45 < cut.mean() < 0.55
    assert not boxes[~cut].any()


def test_boxes_have_the_area_of_the_rest_unless_clipped():
    for share in (0.0, 0.3, 0.75, 1.0):
        box = np.asarray(random_box(jnp.float32(share), jnp.array([50, 50], jnp.int32), 100))
        side = 2 * (int(100 * np.float32(np.sqrt(1 - share))) // 2)
        np.testing.assert_array_equal(box, [50 - side // 2, 50 + side // 2] * 2)
    corner = random_box(jnp.float32(0.75), jnp.array([0, 99], jnp.int32), 100)
    np.testing.assert_array_equal(corner, [0, 25, 74, 100])


def test_a_share_of_one_changes_nothing_and_of_zero_takes_the_other():
    own, others = jnp.array([[1.0, 0.0, UNKNOWN, 1.0]]), jnp.array([[0.0, UNKNOWN, 1.0, 1.0]])
    for mode in ("mixed", "union"):
        np.testing.assert_array_equal(mix_labels(own, others, jnp.ones((1, 1)), mode), own)
        np.testing.assert_array_equal(mix_labels(own, others, jnp.zeros((1, 1)), mode), others)
    quarter = mix_labels(own, others, jnp.full((1, 1), 0.25), "mixed")
    np.testing.assert_array_equal(quarter, [[0.25, UNKNOWN, UNKNOWN, 1.0]])
    union = mix_labels(own, others, jnp.full((1, 1), 0.25), "union")
    np.testing.assert_array_equal(union, [[1.0, UNKNOWN, UNKNOWN, 1.0]])
    whole = kept_shares(jnp.ones(1), jnp.zeros((1, 4), jnp.int32), 5)
    np.testing.assert_array_equal(whole, np.ones((1, 5, 5)))


def test_a_row_without_a_pair_names_the_batch_size():
    with pytest.raises(
        ValueError, match=r"data\.batch_size gives each device an odd number .*\(3\)"
    ):
        jax.eval_shape(make_mixed_inputs(INPUTS, MIXUP, SEED), make_batch(rows=3))
    check_pairs(4)
