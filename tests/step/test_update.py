"""The update that all steps share: batches in parts, the EMA, and skipped steps.

They are tested on a linear model, where parts and EMA have a closed form; test_train_step.py tests
the network.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from tolerances import sum_atol

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.step.ema import EmaState, decay_by_step, update_ema, with_ema
from mlcls_jax.step.losses import known_sum, sigmoid_bce
from mlcls_jax.step.train_step import make_state, make_update, over_devices
from mlcls_jax.system.devices import AXIS, make_mesh, replicated, sharded

ROWS, FEATURES, CLASSES, STEPS = 16, 6, 3, 4
RNG = np.random.default_rng(0)
PARAMS = {
    "head": {"kernel": RNG.normal(size=(FEATURES, CLASSES)).astype(np.float32)},
    "backbone": {"scale": np.ones(FEATURES, np.float32)},
}
STATS = {"backbone": {"mean": np.zeros(FEATURES, np.float32)}}
TRAINABLE = frozenset({"head/kernel"})


def batch_of(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch with more unknown labels in the first rows, so that parts differ in count."""
    rng = np.random.default_rng(step)
    label = rng.integers(0, 2, (ROWS, CLASSES)).astype(np.float32)
    label[rng.random(label.shape) < np.linspace(0.9, 0.0, ROWS)[:, None]] = UNKNOWN
    return rng.normal(size=(ROWS, FEATURES)).astype(np.float32), label


def forward(leaves, frozen, stats, batch):
    """A linear head, and a running mean that moves like that of a normalisation."""
    x, label = batch
    logits = (x * frozen["backbone/scale"]) @ leaves["head/kernel"]
    loss_sum, count = known_sum(sigmoid_bce(logits, label), label)
    mean = 0.9 * stats["backbone"]["mean"] + 0.1 * x.mean(axis=0)
    return loss_sum, (count, {"backbone/mean": mean})


def run(devices: int, accumulate: int = 1, decay=None, start: int = 0, skip=False, batches=None):
    """Returns the state and the metrics after each step."""
    mesh, optimizer = make_mesh(devices), optax.sgd(0.5, momentum=0.9)
    update = make_update(forward, optimizer, TRAINABLE, mesh, accumulate, decay, skip)
    step = over_devices(update, (P(), P(AXIS)), (P(), P()), mesh)
    leaves = {"head/kernel": PARAMS["head"]["kernel"]}
    ema = EmaState(leaves, {"backbone/mean": STATS["backbone"]["mean"]}) if decay else None
    variables = {"params": PARAMS, "batch_stats": STATS}
    args = (ema,) if ema else ()
    state = make_state(variables, optimizer.init(leaves), start, *args)
    state, history = jax.device_put(state, replicated(mesh)), []
    for batch in batches or map(batch_of, range(STEPS)):
        state, metrics = step(state, jax.device_put(batch, sharded(mesh)))
        history.append(jax.device_get((state, metrics)))
    assert step._cache_size() == 1
    return history


def assert_close(ours, theirs):
    """But for the order in which the losses or gradients of a batch are added, step by step."""
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        near = sum_atol(STEPS * ROWS * CLASSES, np.abs(other).max())
        np.testing.assert_allclose(mine, other, rtol=0, atol=near)


@pytest.mark.parametrize(("devices", "accumulate"), [(1, 2), (1, 16), (2, 4), (8, 2)])
def test_a_batch_in_parts_makes_the_update_of_the_whole(devices, accumulate):
    """Losses, counts, gradient norms, statistics and momentum are all sums over the rows."""
    assert_close(run(devices, accumulate), run(1))


def test_the_ema_is_the_recurrence_with_a_rising_decay():
    most, start = 0.3, 7
    history = run(1, decay=decay_by_step(most, start), start=start)
    kernel, mean = PARAMS["head"]["kernel"], STATS["backbone"]["mean"]
    for t, (state, _) in enumerate(history):
        decay = min(most, (1 + t) / (10 + t))
        assert decay < most or t > 2  # both branches are seen
        kernel = decay * kernel + (1 - decay) * state.params["head"]["kernel"]
        mean = decay * mean + (1 - decay) * state.batch_stats["backbone"]["mean"]
        np.testing.assert_allclose(state.ema.params["head/kernel"], kernel, rtol=1e-5)
        np.testing.assert_allclose(state.ema.batch_stats["backbone/mean"], mean, rtol=1e-5)
    assert not np.allclose(kernel, history[-1][0].params["head"]["kernel"], rtol=1e-2)


def test_the_ema_changes_nothing_else_and_does_not_depend_on_devices():
    plain = run(1)
    averaged = run(1, decay=decay_by_step(0.9, 0))
    for (ours, metrics), (theirs, others) in zip(averaged, plain, strict=True):
        assert not theirs.ema
        assert_close((ours.params, metrics), (theirs.params, others))
    assert_close(run(8, 2, decay_by_step(0.9, 0)), averaged)


def test_the_ema_of_constants_is_constant_and_strict_about_dtypes():
    leaves = {"a": jnp.full(3, 0.7)}
    with jax.numpy_dtype_promotion("strict"):
        decay = decay_by_step(0.999, 100)(jnp.asarray(105, jnp.int32))
        ema = update_ema(EmaState(leaves, {}), leaves, {}, decay)
    assert decay == np.float32(6 / 15)
    np.testing.assert_array_equal(ema.params["a"], leaves["a"])


def test_averages_replace_their_leaves():
    ema = EmaState({"head/kernel": np.zeros(1)}, {"backbone/mean": np.ones(1)})
    merged = with_ema({"params": PARAMS, "batch_stats": STATS}, ema)
    assert merged["params"]["backbone"]["scale"] is PARAMS["backbone"]["scale"]
    assert merged["params"]["head"]["kernel"] is ema.params["head/kernel"]
    assert merged["batch_stats"]["backbone"]["mean"] is ema.batch_stats["backbone/mean"]


def with_bad_batch(row: int, value: float) -> list:
    """Returns the batches, with one before the last whose given row has this input."""
    batches = [batch_of(step) for step in range(STEPS)]
    x, label = batch_of(STEPS)
    x[row], label[row] = value, 1.0
    return [*batches[:-1], (x, label), batches[-1]]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])  # 1e30 overflows only the gradients
@pytest.mark.parametrize(("devices", "accumulate"), [(1, 1), (8, 2)])
def test_a_skipped_step_changes_nothing(value, devices, accumulate):
    decay = (lambda _: jnp.float32(0.5)) if value is np.nan else None  # independent of the step
    expected = run(devices, accumulate, decay, skip=True)
    *history, skipped, last = run(
        devices, accumulate, decay, skip=True, batches=with_bad_batch(9, value)
    )
    assert [metrics["skipped"] for _, metrics in (*history, skipped, last)] == [*3 * [0], 1, 0]
    assert not np.isfinite(skipped[1]["grad_norm"])
    assert np.isfinite(skipped[1]["loss"]) == (value == 1e30)
    assert (skipped[0].step, last[0].step) == (STEPS, STEPS + 1)  # the order of images continues
    for (state, _), (other, _) in ((skipped, history[-1]), (last, expected[-1])):
        other = dataclasses.replace(other, step=state.step)
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_option_to_skip_does_not_change_finite_steps():
    """Except for rounding, because compilers fuse the update with the selection."""
    for (ours, metrics), (theirs, others) in zip(run(2, skip=True), run(2), strict=True):
        assert not metrics.pop("skipped")
        assert_close((ours, metrics), (theirs, others))


def test_without_skipping_the_program_has_no_selection():
    mesh, optimizer = make_mesh(1), optax.sgd(0.5)
    leaves = {"head/kernel": PARAMS["head"]["kernel"]}
    state = make_state({"params": PARAMS, "batch_stats": STATS}, optimizer.init(leaves), 0)

    def primitives(skip: bool) -> str:
        update = make_update(forward, optimizer, TRAINABLE, mesh, skip=skip)
        step = over_devices(update, (P(), P(AXIS)), (P(), P()), mesh)
        return step.lower(state, batch_of(0)).as_text()

    assert "is_finite" in primitives(skip=True)
    assert "is_finite" not in primitives(skip=False)
