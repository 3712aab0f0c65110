"""Steps on cached features equal steps on images, for any number of steps per call.

Devices are compared with plain SGD, because Adam would hide a gradient with a wrong factor.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hlo_text import donated

from mlcls_jax.config import Group, Phase
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import DecoderSize
from mlcls_jax.step.feature_step import (
    NO_STEP,
    FeatureChunk,
    Features,
    chunk_sharding,
    make_classify,
    make_feature_step,
)
from mlcls_jax.step.groups import active_modules, trainable_paths
from mlcls_jax.step.losses import sigmoid_bce
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.train_step import (
    make_eval_step,
    make_inputs,
    make_state,
    make_train_step,
    partition,
)
from mlcls_jax.system.devices import make_mesh, replicate, replicated, sharded
from mlcls_jax.system.hlo import collectives

NORMALIZATION = Normalization((120.0, 115.0, 105.0), (58.0, 57.0, 57.5))
COUNT, ROWS, SIZE, CLASSES, STEPS = 20, 16, 33, 5, 5  # feature maps of 2x2
HEAD = Phase("head", "10 steps", [Group("head/.*", 1e-2)])
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, COUNT, SIZE, SIZE, 3), dtype=np.uint8)  # of both views
LABELS = RNG.integers(UNKNOWN, 2, (COUNT, CLASSES)).astype(np.int8)
IMAGE = RNG.integers(0, COUNT, (STEPS, ROWS))
VIEW = RNG.integers(0, 2, (STEPS, ROWS))
POSITION = np.arange(STEPS * ROWS, dtype=np.uint32).reshape(STEPS, ROWS)


def with_decoder(variant) -> EfficientNet:
    return EfficientNet(
        variant=variant, num_classes=CLASSES, decoder=DecoderSize(groups=3, width=16)
    )


@functools.cache
def initial(model):
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    return jax.device_get(dict(variables))


@functools.cache
def features(model) -> Features:
    inputs = make_eval_step(model.clone(num_classes=0), NORMALIZATION, make_mesh(1))
    by_view = [np.asarray(inputs(initial(model), images)) for images in IMAGES]
    return Features(np.stack(by_view, axis=1), LABELS)


def first_state(model, optimizer, mesh):
    variables = initial(model)
    leaves, _ = partition(variables["params"], trainable_paths(variables["params"], HEAD))
    state = make_state(replicate(variables, mesh), optimizer.init(leaves), 0)
    return jax.device_put(state, replicated(mesh))


def feature_step(model, optimizer, mesh, skip=False):
    trainable = trainable_paths(initial(model)["params"], HEAD)
    return make_feature_step(model, optimizer, trainable, sigmoid_bce, 3, mesh, skip=skip)


def chunks_of(length: int, mesh, taken: int | None = None):
    """Chunks of so many steps each, of which `taken`, or all, are real ones."""
    taken = taken or length
    for begin in range(0, STEPS, taken):
        row = np.full((length, ROWS), NO_STEP, np.int32)
        position = np.zeros((length, ROWS), np.uint32)
        real = slice(begin, begin + taken)
        count = len(POSITION[real])
        row[:count] = IMAGE[real] * 2 + VIEW[real]
        position[:count] = POSITION[real]
        yield jax.device_put(FeatureChunk(row, position), chunk_sharding(mesh))


def on_features(model, optimizer, devices, length, taken=None):
    mesh = make_mesh(devices)
    step, table = feature_step(model, optimizer, mesh), replicate(features(model), mesh)
    state, losses = first_state(model, optimizer, mesh), []
    for chunk in chunks_of(length, mesh, taken):
        state, metrics = step(state, table, chunk)
        losses.append(metrics["loss"][:taken])
    assert step._cache_size() == 1
    return jax.device_get(state), np.concatenate(losses)[:STEPS]


def on_images(model, optimizer):
    mesh, variables = make_mesh(1), initial(model)
    trainable = trainable_paths(variables["params"], HEAD)
    active = model.clone(active=active_modules(trainable, HEAD, variables["batch_stats"]))
    step = make_train_step(
        active, optimizer, trainable, make_inputs(NORMALIZATION), sigmoid_bce, 3, mesh
    )
    state, losses = first_state(model, optimizer, mesh), []
    for image, view, position in zip(IMAGE, VIEW, POSITION, strict=True):
        batch = Batch(IMAGES[view, image], LABELS[image], position)
        state, metrics = step(state, jax.device_put(batch, sharded(mesh)))
        losses.append(metrics["loss"])
    return jax.device_get(state), np.array(losses)


@pytest.fixture
def gap(tiny) -> EfficientNet:
    return EfficientNet(variant=tiny, num_classes=CLASSES)


def test_steps_on_features_equal_those_on_images(gap):
    """Except for rounding: the order of the backbone's sums may depend on the batch."""
    optimizer = optax.adam(1e-2, eps=1e-5)  # a smaller eps amplifies gradients near 0
    expected, losses = on_images(gap, optimizer)
    state, ours = on_features(gap, optimizer, devices=1, length=STEPS)
    np.testing.assert_allclose(ours, losses, rtol=1e-5)
    assert state.step == expected.step == STEPS
    assert state.label_count == expected.label_count
    np.testing.assert_allclose(state.loss_sum, expected.loss_sum, rtol=1e-5)
    before = flatten(initial(gap)["params"])
    for path, leaf in flatten(state.params).items():
        other = flatten(expected.params)[path]
        if path.startswith("head/"):  # other dropout would change them by 1e-2
            assert np.abs(leaf - before[path]).max() > 1e-2
            np.testing.assert_allclose(leaf, other, rtol=0, atol=2e-5, err_msg=path)
        else:
            np.testing.assert_array_equal(leaf, other, err_msg=path)
    for ours, theirs in zip(
        jax.tree.leaves(state.batch_stats), jax.tree.leaves(expected.batch_stats), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_how_many_steps_a_chunk_takes_changes_no_bit_of_them(gap, length):
    """In one program, for all of them; one for chunks of another length may round otherwise."""
    optimizer = optax.adam(1e-2, eps=1e-5)
    whole, losses = on_features(gap, optimizer, devices=1, length=STEPS)
    state, ours = on_features(gap, optimizer, devices=1, length=STEPS, taken=length)
    np.testing.assert_array_equal(ours, losses)
    for mine, other in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(mine, other)
    # Lengths that do not divide the steps leave some of the last chunk empty.
    state, ours = on_features(gap, optimizer, devices=1, length=length)
    np.testing.assert_allclose(ours, losses, rtol=1e-5)
    for mine, other in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=2e-5)


def test_a_step_of_a_chunk_that_is_not_finite_is_skipped(gap):
    """The steps after it in the same call are taken as usual."""
    mesh, optimizer, table = make_mesh(2), optax.adam(1e-2), features(gap)
    inputs = np.array(table.inputs)
    rare = [n for n in range(COUNT) if (n == IMAGE).any(axis=1).sum() < STEPS]
    inputs[rare[0]] = np.nan
    expected = (rare[0] == IMAGE).any(axis=1)
    step = feature_step(gap, optimizer, mesh, skip=True)
    state = first_state(gap, optimizer, mesh)
    (chunk,) = chunks_of(STEPS, mesh)
    state, metrics = step(state, replicate(Features(inputs, LABELS), mesh), chunk)
    np.testing.assert_array_equal(metrics["skipped"], expected)
    np.testing.assert_array_equal(np.isnan(metrics["loss"]), expected)
    assert 0 < expected.sum() < STEPS and state.step == STEPS
    assert optax.tree.get(state.opt_state, "count") == STEPS - expected.sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_any_number_of_devices_takes_the_same_steps(gap):
    optimizer = optax.sgd(0.1)
    one, losses = on_features(gap, optimizer, devices=1, length=3)
    expected, before = flatten(one.params), flatten(initial(gap)["params"])
    assert np.abs(expected["head/kernel"] - before["head/kernel"]).max() > 2e-3
    for devices in (2, 8):
        state, ours = on_features(gap, optimizer, devices, length=3)
        np.testing.assert_allclose(ours, losses, rtol=1e-5)
        assert state.label_count == one.label_count
        for path, leaf in flatten(state.params).items():
            np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=2e-6, err_msg=path)


def test_one_sum_per_step_and_the_whole_state_donated(gap):
    optimizer, mesh = optax.sgd(0.1), make_mesh(8)
    state = first_state(gap, optimizer, mesh)
    table = replicate(features(gap), mesh)
    step = feature_step(gap, optimizer, mesh)
    compiled = step.lower(state, table, next(chunks_of(STEPS, mesh))).compile()
    (only,) = collectives(compiled)  # once, inside the loop
    head = sum(leaf.size for leaf in jax.tree.leaves(state.params["head"]))
    assert (only.kind, only.bytes) == ("all-reduce", 4 * (head + 2))
    assert donated(compiled) >= set(range(len(jax.tree.leaves(state))))


def test_steps_of_a_decoder_on_features_equal_those_on_images(tiny):
    """On eight devices, with dropout."""
    optimizer, model = optax.sgd(1e-2), with_decoder(tiny)
    assert features(model).inputs.shape[:4] == (COUNT, 2, 2, 2)
    expected, losses = on_images(model, optimizer)
    before, after = flatten(initial(model)["params"]), flatten(expected.params)
    assert np.abs(after["head/kernel"] - before["head/kernel"]).max() > 1e-3
    state, ours = on_features(model, optimizer, devices=8, length=3)
    np.testing.assert_allclose(ours, losses, rtol=2e-5)
    for path, leaf in flatten(state.params).items():
        np.testing.assert_allclose(leaf, after[path], rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(("head", "rows"), [("gap", 16), ("mldecoder", 8), ("mldecoder", 64)])
def test_classify_is_the_head_of_the_evaluation(tiny, gap, head, rows):
    """For any number of images per pass: a divisor of their number, another, or a larger one."""
    mesh, model = make_mesh(8), gap if head == "gap" else with_decoder(tiny)
    variables, images = initial(model), jax.device_put(IMAGES[0, :16], sharded(mesh))
    expected = make_eval_step(model, NORMALIZATION, mesh)(replicate(variables, mesh), images)
    inputs = replicate(features(model).inputs[:, 0], mesh)
    logits = make_classify(model, rows, mesh)(replicate(variables, mesh), inputs)
    assert logits.dtype == jnp.float32 and logits.shape == (COUNT, CLASSES)
    assert logits.sharding.is_fully_replicated
    np.testing.assert_allclose(logits[:16], expected, rtol=0, atol=1e-5)
