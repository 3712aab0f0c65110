"""Parameter groups, schedules and the optimiser of a phase, on small trees."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from live_optimizers import CASES, DECAY, RATE, gradients
from stored_values import stored
from tolerances import EPS

from mlcls_jax.config import Group, Phase
from mlcls_jax.models.variants import VARIANTS, scaled_stages
from mlcls_jax.step.groups import (
    FROZEN,
    active_modules,
    assign_groups,
    count_stages,
    depth_below_head,
    group_table,
    trainable_paths,
)
from mlcls_jax.step.optimizer import make_optimizer
from mlcls_jax.step.param_tree import flatten, unflatten
from mlcls_jax.step.schedules import make_schedule
from mlcls_jax.step.train_step import partition

PARAMS = {
    "backbone": {
        "stem": {
            "conv": {"kernel": jnp.full((2, 3), 0.5)},
            "norm": {"scale": jnp.ones(3), "bias": jnp.full(3, 2.0)},
        },
        "block": {
            "conv": {"kernel": jnp.full((3, 3), -1.0)},
            "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
        },
    },
    "head": {"kernel": jnp.full((3, 4), 2.0), "bias": jnp.full(4, 3.0)},
}
STATISTICS = {"backbone": {name: {"norm": {"mean": jnp.zeros(3)}} for name in ("stem", "block")}}
PATHS = list(flatten(PARAMS))


def phase(*groups: Group, **fields) -> Phase:
    return Phase("p", "10 steps", list(groups), **{"schedule": "constant", **fields})


def run(optimizer, params, *gradients):
    """Returns the parameters after one step per gradient."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def norm(leaves) -> float:
    return float(np.sqrt(sum(np.square(leaf).sum() for leaf in leaves.values())))


def leaves_of(groups, **fields):
    """Returns a phase, its trainable leaves and their paths."""
    phase_config = phase(*groups, **fields)
    trainable = trainable_paths(PARAMS, phase_config)
    return phase_config, partition(PARAMS, trainable)[0], trainable


def test_flatten_is_undone_by_unflatten():
    assert "backbone/stem/conv/kernel" in PATHS and len(PATHS) == 8
    back = unflatten(flatten(PARAMS))
    assert jax.tree.structure(back) == jax.tree.structure(PARAMS)


def test_the_first_match_wins_and_the_rest_is_frozen():
    groups = [Group("head/bias", 1.0), Group("head/.*", 2.0), Group(".*/norm/.*", 3.0)]
    assigned = assign_groups(PATHS, groups)
    assert assigned == {
        path: 0
        if path == "head/bias"
        else 1
        if path == "head/kernel"
        else 2
        if "/norm/" in path
        else FROZEN
        for path in PATHS
    }


def test_a_pattern_matches_whole_paths():
    with pytest.raises(ValueError, match="'head'"):
        assign_groups(PATHS, [Group("head", 1.0)])
    with pytest.raises(ValueError, match="'kernel'"):
        assign_groups(PATHS, [Group("kernel", 1.0)])


@pytest.mark.parametrize(
    "groups",
    [
        [Group("heads/.*", 1.0)],
        [Group("head/.*", 1.0), Group("hed/.*", 1.0)],
        [Group(".*", 1.0), Group("head/.*", 2.0)],  # taken by the first
    ],
)
def test_a_group_without_parameters_is_an_error_that_shows_paths(groups):
    with pytest.raises(ValueError, match=re.escape(repr(groups[-1].pattern))) as info:
        trainable_paths(PARAMS, phase(*groups))
    assert "backbone/stem" in str(info.value)


def test_trainable_paths_are_the_matched_ones():
    assert trainable_paths(PARAMS, phase(Group("head/.*", 1.0))) == {"head/kernel", "head/bias"}
    assert trainable_paths(PARAMS, phase(Group(".*", 1.0))) == set(PATHS)


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_active_modules_hold_a_trainable_leaf(batch_norm):
    phase_config = phase(Group("backbone/block/.*", 1.0), batch_norm=batch_norm)
    active = active_modules(trainable_paths(PARAMS, phase_config), phase_config, STATISTICS)
    expected = {"backbone", "backbone/block", "backbone/block/conv"}
    if batch_norm == "train":
        expected |= {"backbone/block/norm"}
    assert active == expected


def test_a_frozen_backbone_is_active_nowhere():
    phase_config = phase(Group("head/.*", 1.0), batch_norm="train")
    trainable = trainable_paths(PARAMS, phase_config)
    assert active_modules(trainable, phase_config, STATISTICS) == {"head"}


def test_group_table_counts_every_parameter_once():
    groups = [Group("head/.*", 1.0, 0.1), Group(".*/norm/.*", 2.0)]
    rows = group_table(PARAMS, phase(*groups))
    total = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    assert [row.parameters for row in rows] == [16, 12, 15]
    assert sum(row.parameters for row in rows) == total == 43
    assert [row.pattern for row in rows] == ["head/.*", ".*/norm/.*", "(frozen)"]
    assert [row.learning_rate for row in rows] == [1.0, 2.0, 0.0]
    assert [row.weight_decay for row in rows] == [0.1, 0.0, 0.0]


def test_group_table_of_shapes_needs_no_arrays():
    shapes = jax.eval_shape(lambda: PARAMS)
    phase_config = phase(Group("head/.*", 1.0))
    assert group_table(shapes, phase_config) == group_table(PARAMS, phase_config)


def rates(phase_config: Phase, steps: int, warmup: int, peak: float = 0.8) -> list[float]:
    schedule = make_schedule(phase_config, peak, steps, warmup)
    return [float(schedule(step)) for step in range(steps + 1)]


def test_cosine_goes_from_the_peak_to_zero():
    values = rates(phase(schedule="cosine"), 10, 0)
    expected = 0.4 * (1 + np.cos(np.pi * np.arange(11) / 10))
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_warmup_rises_in_a_line_from_above_zero_to_the_peak(schedule):
    values = rates(phase(schedule=schedule), 12, 4)
    np.testing.assert_allclose(values[:5], 0.8 * np.arange(1, 6) / 5, rtol=1e-6)
    assert values[4] == max(values) == pytest.approx(0.8)
    if schedule == "constant":
        np.testing.assert_allclose(values[4:], 0.8, rtol=1e-6)
    else:
        np.testing.assert_allclose(
            values[4:], 0.4 * (1 + np.cos(np.pi * np.arange(9) / 8)), atol=1e-6
        )


def test_constant_is_constant():
    assert rates(phase(), 5, 0) == pytest.approx([0.8] * 6)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (1, 9), (3, 3), (3, 50)])
def test_every_step_of_a_short_phase_has_a_positive_rate(schedule, steps, warmup):
    values = rates(phase(schedule=schedule), steps, warmup)[:steps]
    assert all(np.isfinite(values)) and min(values) > 0 and max(values) <= 0.8 + 1e-6


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_weight_decay_moves_kernels_only(clip_norm):
    phase_config, leaves, trainable = leaves_of(
        [Group("head/.*", 0.1, 0.5), Group("backbone/.*", 0.2, 0.25)], clip_norm=clip_norm
    )
    optimizer = make_optimizer(phase_config, trainable, 10, 0)
    after = run(optimizer, leaves, jax.tree.map(jnp.zeros_like, leaves))
    for path, leaf in leaves.items():
        shrink = 0.1 * 0.5 if path.startswith("head") else 0.2 * 0.25
        if path.endswith("/kernel"):
            np.testing.assert_allclose(after[path], leaf * (1 - shrink), rtol=1e-6)
        else:
            assert (after[path] == leaf).all(), path


def test_each_group_moves_at_its_own_rate():
    phase_config, leaves, trainable = leaves_of(
        [Group("head/.*", 0.1), Group("backbone/.*", 0.001)]
    )
    ones = jax.tree.map(jnp.ones_like, leaves)
    after = run(make_optimizer(phase_config, trainable, 10, 0), leaves, ones)
    for path in leaves:  # Adam's first step is the rate against the gradient's sign
        rate = 0.1 if path.startswith("head") else 0.001
        np.testing.assert_allclose(leaves[path] - after[path], rate, rtol=1e-3)


def test_a_warmup_reaches_the_optimizer():
    phase_config, leaves, trainable = leaves_of([Group("head/.*", 0.1)], warmup="4 steps")
    ones = jax.tree.map(jnp.ones_like, leaves)
    after = run(make_optimizer(phase_config, trainable, 10, 4), leaves, ones)
    np.testing.assert_allclose(leaves["head/bias"] - after["head/bias"], 0.02, rtol=1e-4)


def test_clipping_divides_by_the_norm_of_the_trainable_gradients_alone():
    groups = [Group("head/.*", 0.1)]
    clipped, leaves, trainable = leaves_of(groups, clip_norm=1.0)
    free, _, _ = leaves_of(groups, clip_norm=0.0)
    rng = np.random.default_rng(0)
    everything = {p: jnp.asarray(rng.normal(size=x.shape)) for p, x in flatten(PARAMS).items()}
    # The frozen gradients are huge: if they counted, the others would be clipped to almost 0.
    everything = {p: g if p in trainable else 1e6 * g for p, g in everything.items()}
    gradients = partition(unflatten(everything), trainable)[0]
    assert set(gradients) == trainable
    small = jax.tree.map(lambda g: 0.01 * g, gradients)  # below the limit: unchanged
    by_hand = jax.tree.map(lambda g: g / norm(gradients), gradients)
    assert norm(gradients) > 1 > norm(small)
    a = run(make_optimizer(clipped, trainable, 10, 0), leaves, gradients, small)
    b = run(make_optimizer(free, trainable, 10, 0), leaves, by_hand, small)
    c = run(make_optimizer(free, trainable, 10, 0), leaves, gradients, small)
    for path in leaves:
        np.testing.assert_allclose(a[path], b[path], rtol=1e-6)
        assert not np.allclose(a[path], c[path], rtol=1e-4)


def test_optimizer_state_holds_trainable_leaves_only():
    phase_config, leaves, trainable = leaves_of([Group("head/.*", 0.1)])
    state = make_optimizer(phase_config, trainable, 10, 0).init(leaves)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert sizes == 2 * sum(leaf.size for leaf in leaves.values())  # Adam's two moments
    assert set(leaves) == {"head/kernel", "head/bias"}


GRADIENTS = gradients()
NEAR = 2 * len(GRADIENTS) * EPS  # of the largest: each step rounds what it moves, twice


@pytest.mark.parametrize("case", CASES)
def test_an_optimizer_equals_that_of_torch(case):
    """Weight decay is an L2 penalty for adam and sgd, and decoupled for adamw."""
    phase_config, leaves, trainable = leaves_of(
        [Group("head/.*", RATE, DECAY)], clip_norm=0.0, **CASES[case]
    )
    ours = run(make_optimizer(phase_config, trainable, 12, 0), leaves, *GRADIENTS)
    for path in leaves:
        expected = stored("optimizers")[f"{case}: {path}"]
        near = NEAR * abs(expected).max()
        np.testing.assert_allclose(ours[path], expected, rtol=0, atol=near)


def test_lion_equals_that_of_optax():
    phase_config, leaves, trainable = leaves_of(
        [Group("head/.*", RATE, DECAY)], clip_norm=0.0, optimizer="lion"
    )
    ours = run(make_optimizer(phase_config, trainable, 12, 0), leaves, *GRADIENTS)
    mask = {"head/kernel": True, "head/bias": False}
    theirs = run(optax.lion(RATE, weight_decay=DECAY, mask=mask), leaves, *GRADIENTS)
    for path in leaves:
        near = NEAR * abs(theirs[path]).max()
        np.testing.assert_allclose(ours[path], theirs[path], rtol=0, atol=near)


@pytest.mark.parametrize(("name", "vectors"), [("adam", 2), ("sgd", 1), ("lion", 1)])
def test_moments_are_vectors_of_the_trainable_leaves(name, vectors):
    phase_config, leaves, trainable = leaves_of([Group("head/.*", 0.1)], optimizer=name)
    state = make_optimizer(phase_config, trainable, 10, 0).init(leaves)
    sizes = [leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sizes == vectors * [sum(leaf.size for leaf in leaves.values())]


def params_of(variant: str) -> dict:
    """Returns parameters with one kernel for each stage of a variant."""
    stages = range(1, len(scaled_stages(VARIANTS[variant])) + 1)
    names = ["stem", "top", *(f"stage{stage}" for stage in stages)]
    backbone = {name: {"conv": {"kernel": jnp.ones(2)}} for name in names}
    return {"backbone": backbone, "head": {"kernel": jnp.ones(3), "bias": jnp.ones(1)}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_rates_fall_stage_by_stage_from_the_head_to_the_stem(variant):
    params = params_of(variant)
    count = count_stages(params)
    depths = {path: depth_below_head(path, count) for path in flatten(params)}
    assert depths.pop("head/kernel") == depths.pop("head/bias") == 0
    assert depths.pop("backbone/top/conv/kernel") == 1
    assert depths.pop("backbone/stem/conv/kernel") == count + 1
    assert depths == {
        f"backbone/stage{stage}/conv/kernel": count + 1 - stage for stage in range(1, count + 1)
    }


@pytest.mark.parametrize(("variant", "stages"), [("b0", 7), ("v2s", 6)])
def test_group_table_shows_the_rate_of_each_layer(variant, stages):
    groups = [Group("head/.*", 1.0), Group("backbone/.*", 0.1, 0.5)]
    rows = group_table(params_of(variant), phase(*groups, layer_decay=0.5))
    assert rows[0].pattern == "head/.* (head)" and rows[0].learning_rate == 1.0
    assert rows[1].pattern == f"backbone/.* (stage{stages}, top)" and rows[1].parameters == 4
    assert rows[2].pattern == f"backbone/.* (stage{stages - 1})"
    assert rows[-2].pattern == "backbone/.* (stem)" and rows[-1].pattern == "(frozen)"
    rates = [row.learning_rate for row in rows[1:-1]]
    np.testing.assert_allclose(rates, 0.1 * 0.5 ** np.arange(1, stages + 2))
    assert {row.weight_decay for row in rows[1:-1]} == {0.5}


def test_layers_move_at_the_rates_of_the_table():
    params = params_of("b0")
    phase_config = phase(Group(".*", 0.1), layer_decay=0.7)
    leaves, trainable = flatten(params), trainable_paths(params, phase_config)
    optimizer = make_optimizer(phase_config, trainable, 10, 0, stages=count_stages(params))
    after = run(optimizer, leaves, jax.tree.map(jnp.ones_like, leaves))
    for path, leaf in leaves.items():  # Adam's first step is the rate
        rate = 0.1 * 0.7 ** depth_below_head(path, 7)
        np.testing.assert_allclose(leaf - after[path], rate, rtol=1e-4, err_msg=path)
