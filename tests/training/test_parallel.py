"""The number of devices changes only the batch statistics, as documented.

All tests use plain SGD, because Adam would hide a gradient that is off by a factor.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerances import EPS

from mlcls_jax.config import Group, Phase
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.step.groups import active_modules, trainable_paths
from mlcls_jax.step.losses import sigmoid_bce
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.train_step import make_inputs, make_state, make_train_step, partition
from mlcls_jax.system.devices import AXIS, make_mesh, replicate, replicated, sharded
from mlcls_jax.system.hlo import collectives

NORMALIZATION = Normalization((120.0, 115.0, 105.0), (58.0, 57.0, 57.5))
ROWS, SIZE, CLASSES, STEPS = 16, 32, 5, 3
FROZEN = Phase("frozen", "10 steps", [Group(".*", 0.1)])
TRAIN = Phase("train", "10 steps", [Group(".*", 0.1)], batch_norm="train")


def make_batch(step: int) -> Batch:
    """Returns a batch with more unknown labels in the first rows, so that devices differ."""
    rng = np.random.default_rng(step)
    label = rng.integers(0, 2, (ROWS, CLASSES)).astype(np.int8)
    label[rng.random(label.shape) < np.linspace(0.9, 0.0, ROWS)[:, None]] = UNKNOWN
    return Batch(
        image=rng.integers(0, 256, (ROWS, SIZE, SIZE, 3), dtype=np.uint8),
        label=label,
        position=np.arange(step * ROWS, (step + 1) * ROWS, dtype=np.uint32),
    )


@pytest.fixture
def initial(tiny):
    """Returns the variables of a network with random weights."""
    model = EfficientNet(variant=tiny, num_classes=CLASSES)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    return jax.device_get(dict(variables))


def start(initial, variant, phase, devices, learning_rate=0.1, statistics_axis=None):
    """Returns a training step over a number of devices, its first state, and the mesh."""
    mesh = make_mesh(devices)
    trainable = trainable_paths(initial["params"], phase)
    model = EfficientNet(
        variant=variant,
        num_classes=CLASSES,
        active=active_modules(trainable, phase, initial["batch_stats"]),
        statistics_axis=statistics_axis,
    )
    optimizer = optax.sgd(learning_rate)
    step = make_train_step(
        model, optimizer, trainable, make_inputs(NORMALIZATION), sigmoid_bce, 3, mesh
    )
    variables = replicate(initial, mesh)
    opt_state = optimizer.init(partition(variables["params"], trainable)[0])
    return step, jax.device_put(make_state(variables, opt_state, 0), replicated(mesh)), mesh


def run(initial, variant, phase, devices):
    """Trains, and returns the last state, and the losses and gradient norms of all steps."""
    step, state, mesh = start(initial, variant, phase, devices)
    history = []
    for index in range(STEPS):
        state, metrics = step(state, jax.device_put(make_batch(index), sharded(mesh)))
        history.append(metrics)
    history = jax.device_get(history)
    return jax.device_get(state), {k: np.array([m[k] for m in history]) for k in history[0]}


def atol_of_move(path, moves, before) -> float:
    """Returns the tolerance for the SGD update of a leaf between two programs.

    The gradient of a norm's bias is zero if another norm follows, and that of its scale is small if
    only relu6 is in between: their terms cancel, except for rounding. The other leaf of the norm
    sums the same terms without cancelling, so its update shows how large they are.

    Args:
        path: path of the leaf.
        moves: update of each leaf, by path.
        before: leaves before the update; the updates are rounded relative to their size.
    """
    module = path.rpartition("/")[0] + "/"
    largest = max(np.abs(moves[other]).max() for other in moves if other.startswith(module))
    own = np.abs(moves[path]).max()
    return 1e-3 * own + 1e-5 * largest + 2 * EPS * np.abs(before[path]).max()


@pytest.mark.slow
def test_any_number_of_devices_takes_the_same_steps(tiny, initial):
    one, metrics = run(initial, tiny, FROZEN, 1)
    before, expected = flatten(initial["params"]), flatten(one.params)
    moved = max(float(np.abs(expected[path] - before[path]).max()) for path in before)
    assert moved > 2e-3  # a thousand times the tolerance below
    for devices in (2, 8):
        state, others = run(initial, tiny, FROZEN, devices)
        for name in ("loss", "grad_norm"):
            np.testing.assert_allclose(others[name], metrics[name], rtol=1e-5, err_msg=name)
        for path, leaf in flatten(state.params).items():
            np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=2e-6, err_msg=path)
        np.testing.assert_allclose(state.loss_sum, one.loss_sum, rtol=1e-5)
        assert state.label_count == one.label_count
        for path, leaf in flatten(state.batch_stats).items():
            np.testing.assert_array_equal(leaf, flatten(initial["batch_stats"])[path])


@pytest.mark.slow
def test_statistics_are_averaged_over_devices(tiny, initial):
    """Each device normalises by its own rows, as one device does with each part of the batch."""
    devices = 4
    batch, rows = make_batch(0), ROWS // devices
    step, state, mesh = start(initial, tiny, TRAIN, devices)
    state, metrics = step(state, jax.device_put(batch, sharded(mesh)))

    alone, _, mesh = start(initial, tiny, TRAIN, 1, learning_rate=1.0)
    parts = []
    for device in range(devices):
        part = jax.tree.map(lambda leaf, at=device * rows: leaf[at : at + rows], batch)
        _, fresh, _ = start(initial, tiny, TRAIN, 1, learning_rate=1.0)
        parts.append(jax.device_get(alone(fresh, jax.device_put(part, sharded(mesh)))[0]))

    counts = np.array([part.label_count for part in parts])
    assert len(set(counts)) > 1  # otherwise a mean of means would pass as well
    stats = [flatten(part.batch_stats) for part in parts]
    for path, leaf in flatten(jax.device_get(state.batch_stats)).items():
        mean = np.mean([part[path] for part in stats], axis=0)
        np.testing.assert_allclose(leaf, mean, rtol=1e-5, atol=1e-6, err_msg=path)
        if path.endswith("/var"):  # some means are zero for any rows
            assert not np.allclose(stats[0][path], mean, rtol=1e-5, atol=1e-6), path
    losses = sum(part.loss_sum for part in parts)
    np.testing.assert_allclose(metrics["loss"], losses / counts.sum(), rtol=1e-5)
    # SGD with rate 1 moves by the mean gradient of a part. Its weight is its known labels.
    before, after = flatten(initial["params"]), flatten(jax.device_get(state.params))
    moves = [{path: before[path] - leaf for path, leaf in flatten(p.params).items()} for p in parts]
    shares = 0.1 * counts / counts.sum()
    wanted = {
        path: sum(share * move[path] for share, move in zip(shares, moves, strict=True))
        for path in after
    }
    for path, leaf in after.items():
        near = atol_of_move(path, wanted, before)
        np.testing.assert_allclose(
            before[path] - leaf, wanted[path], rtol=1e-3, atol=near, err_msg=path
        )


@pytest.mark.slow
def test_synchronised_statistics_equal_those_of_one_device(tiny, initial):
    results = []
    for devices in (1, 4):
        step, state, mesh = start(initial, tiny, TRAIN, devices, statistics_axis=AXIS)
        batch = jax.device_put(make_batch(0), sharded(mesh))
        compiled = step.lower(state, batch).compile()
        state, metrics = compiled(state, batch)
        results.append((jax.device_get(state), metrics, len(collectives(compiled))))
    (one, expected, _), (four, metrics, reductions) = results
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=1e-4)
    stats = flatten(one.batch_stats)
    for path, leaf in flatten(four.batch_stats).items():
        np.testing.assert_allclose(leaf, stats[path], rtol=1e-4, atol=1e-5, err_msg=path)
    params, before = flatten(one.params), flatten(initial["params"])
    moves = {path: params[path] - leaf for path, leaf in before.items()}
    for path, leaf in flatten(four.params).items():
        near = 2 * atol_of_move(path, moves, before)
        np.testing.assert_allclose(leaf, params[path], rtol=0, atol=near, err_msg=path)
    norms = sum(path.endswith("/mean") for path in stats)
    # Two sums for each normalisation, one in each pass, and the sum of the gradients.
    assert 1 + norms < reductions <= 1 + 2 * norms
