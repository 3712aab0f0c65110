"""The training step: frozen leaves, statistics, metrics, memory, and parts of a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlcls_jax.config import Group, Phase
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.step.groups import active_modules, trainable_paths
from mlcls_jax.step.losses import sigmoid_bce
from mlcls_jax.step.optimizer import make_optimizer
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.train_step import make_inputs, make_state, make_train_step, normalize, partition
from mlcls_jax.system.devices import make_mesh, replicate, replicated, sharded
from mlcls_jax.system.hlo import memory

NORMALIZATION = Normalization((120.0, 115.0, 105.0), (58.0, 57.0, 57.5))
ROWS, SIZE, CLASSES = 16, 32, 5
HEAD = Phase("head", "10 steps", [Group("head/.*", 1e-2, 0.1)])
TAIL = Phase(
    "tail",
    "10 steps",
    [Group("head/.*", 1e-2, 0.1), Group("backbone/(stage[67]|top)/.*", 1e-2, 0.1)],
)
ALL = Phase("all", "10 steps", [Group(".*", 1e-2, 0.1)])


@functools.cache
def initial(variant):
    model = EfficientNet(variant=variant, num_classes=CLASSES)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    return jax.device_get(dict(variables))


def make_batch(step: int) -> Batch:
    rng = np.random.default_rng(step)
    return Batch(
        image=rng.integers(0, 256, (ROWS, SIZE, SIZE, 3), dtype=np.uint8),
        label=rng.integers(UNKNOWN, 2, (ROWS, CLASSES)).astype(np.int8),
        position=np.arange(step * ROWS, (step + 1) * ROWS, dtype=np.uint32),
    )


def build(variant, phase, mesh, optimizer=None, accumulate=1):
    variables = replicate(initial(variant), mesh)
    trainable = trainable_paths(variables["params"], phase)
    active = active_modules(trainable, phase, variables["batch_stats"])
    model = EfficientNet(variant=variant, num_classes=CLASSES, active=active)
    optimizer = optimizer or make_optimizer(phase, trainable, 10, 0)
    inputs = make_inputs(NORMALIZATION)
    step = make_train_step(model, optimizer, trainable, inputs, sigmoid_bce, 3, mesh, accumulate)
    opt_state = optimizer.init(partition(variables["params"], trainable)[0])
    state = jax.device_put(make_state(variables, opt_state, 0), replicated(mesh))
    return step, state, trainable


def run(variant, phase, devices, steps=10, optimizer=None):
    mesh = make_mesh(devices)
    step, state, _ = build(variant, phase, mesh, optimizer)
    metrics = {}
    for index in range(steps):
        state, metrics = step(state, jax.device_put(make_batch(index), sharded(mesh)))
    return jax.device_get(state), jax.device_get(metrics)


@pytest.mark.parametrize("phase", [HEAD, TAIL], ids=lambda phase: phase.name)
def test_frozen_leaves_and_statistics_stay_bit_identical(tiny, phase):
    before = initial(tiny)
    state, _ = run(tiny, phase, devices=1)
    trainable = trainable_paths(before["params"], phase)
    after = flatten(state.params)
    for path, leaf in flatten(before["params"]).items():
        same = np.array_equal(after[path], leaf)
        assert same == (path not in trainable), path
    for path, leaf in flatten(before["batch_stats"]).items():
        np.testing.assert_array_equal(flatten(state.batch_stats)[path], leaf)


def test_statistics_change_if_normalisations_train(tiny):
    phase = Phase("all", "10 steps", ALL.groups, batch_norm="train")
    before = initial(tiny)
    state, _ = run(tiny, phase, devices=8, steps=1)
    for path, leaf in flatten(before["batch_stats"]).items():
        assert not np.array_equal(flatten(state.batch_stats)[path], leaf), path


def test_loss_and_gradient_norm_cover_the_whole_batch(tiny):
    mesh = make_mesh(8)
    _, _, trainable = build(tiny, HEAD, mesh)
    batch, variables = make_batch(0), initial(tiny)
    model = EfficientNet(variant=tiny, num_classes=CLASSES, dropout=0.0)

    def mean_loss(head):
        params = {**variables["params"], "head": head}
        logits = model.apply(
            {**variables, "params": params}, normalize(batch.image, NORMALIZATION), train=False
        )
        known, label = batch.label != UNKNOWN, jnp.asarray(batch.label, jnp.float32)
        return jnp.where(known, sigmoid_bce(logits, label), 0.0).sum() / known.sum()

    loss, grads = jax.jit(jax.value_and_grad(mean_loss))(variables["params"]["head"])
    model_step = make_train_step(
        model.clone(active=frozenset()),
        optax.sgd(0.0),
        trainable,
        make_inputs(NORMALIZATION),
        sigmoid_bce,
        3,
        mesh,
    )
    opt_state = optax.sgd(0.0).init({})
    state = jax.device_put(make_state(initial(tiny), opt_state, 0), replicated(mesh))
    _, metrics = model_step(state, jax.device_put(batch, sharded(mesh)))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    # Clipping uses this norm, which excludes frozen leaves.
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-4)


def test_one_compilation_serves_every_step(tiny):
    mesh = make_mesh(8)
    step, state, _ = build(tiny, HEAD, mesh)
    for index in range(3):
        state, _ = step(state, jax.device_put(make_batch(index), sharded(mesh)))
    assert step._cache_size() == 1


def test_normalize_is_strict_about_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        pixels = normalize(jnp.full((1, 2, 2, 3), 255, jnp.uint8), NORMALIZATION)
    np.testing.assert_allclose(
        pixels[0, 0, 0], (255 - np.array(NORMALIZATION.mean)) / NORMALIZATION.std, rtol=1e-6
    )


TOP = Phase("top", "10 steps", [Group("(head|backbone/top)/.*", 0.1)])


def one_step(variant, phase, devices, accumulate):
    """Returns the state after a step of SGD, its metrics, and the program's temporary bytes."""
    mesh = make_mesh(devices)
    step, state, _ = build(variant, phase, mesh, optax.sgd(0.1), accumulate)
    batch = jax.device_put(make_batch(0), sharded(mesh))
    compiled = step.lower(state, batch).compile()
    return *jax.device_get(compiled(state, batch)), memory(compiled).temporary


@pytest.mark.slow
def test_a_batch_in_parts_has_the_gradient_and_the_dropout_of_the_whole(tiny):
    state, metrics, temporary = one_step(tiny, TOP, devices=1, accumulate=1)
    before, expected = flatten(initial(tiny)["params"]), flatten(state.params)
    moved = max(float(np.abs(expected[path] - before[path]).max()) for path in before)
    assert moved > 2e-3  # a thousand times the tolerance below
    ours, others, smaller = one_step(
        tiny, TOP, devices=1, accumulate=4
    )  # test_update.py: 8 devices
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-5, err_msg=name)
    assert ours.label_count == state.label_count
    for path, leaf in flatten(ours.params).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=2e-6, err_msg=path)
    assert smaller < 0.7 * temporary  # mostly the gradients and their sum


def test_parts_of_a_batch_normalise_like_devices(tiny):
    phase = Phase("top", "10 steps", TOP.groups, batch_norm="train")
    parts, metrics, _ = one_step(tiny, phase, devices=1, accumulate=4)
    alone, others, _ = one_step(tiny, phase, devices=4, accumulate=1)
    np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=1e-5)
    for ours, theirs in [(parts.params, alone.params), (parts.batch_stats, alone.batch_stats)]:
        for path, leaf in flatten(ours).items():
            other = flatten(theirs)[path]
            np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5, err_msg=path)
