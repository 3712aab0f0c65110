"""Parameter counts of every variant, and the effects of training mode."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import sum_atol

from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.variants import VARIANTS, backbone_values
from mlcls_jax.step.param_tree import flatten

# Trainable parameters with 1000 classes.  B0 to B7: keras.applications (model.count_params()
# without the statistics).  Lite: the published PyTorch files (lite0 to lite2) and timm's
# tf_efficientnet_lite3 and 4.  V2: timm's tf_efficientnetv2_*.
PARAMETERS = {
    "b0": 5_288_548,
    "b1": 7_794_184,
    "b2": 9_109_994,
    "b3": 12_233_232,
    "b4": 19_341_616,
    "b5": 30_389_784,
    "b6": 43_040_704,
    "b7": 66_347_960,
    "lite0": 4_652_008,
    "lite1": 5_416_680,
    "lite2": 6_092_072,
    "lite3": 8_197_096,
    "lite4": 13_006_568,
    "v2b0": 7_139_704,
    "v2b1": 8_141_052,
    "v2b2": 10_096_086,
    "v2b3": 14_358_406,
    "v2s": 21_458_488,
    "v2m": 54_139_356,
    "v2l": 118_515_272,
}


@functools.cache
def shapes(variant: str, num_classes: int = 1000):
    model = EfficientNet(variant=variant, num_classes=num_classes)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_count(variant):
    leaves = jax.tree.leaves(shapes(variant)["params"])
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_backbone_values_are_those_of_the_network(variant):
    values = shapes(variant)
    leaves = jax.tree.leaves((values["params"]["backbone"], values["batch_stats"]))
    assert sum(leaf.size for leaf in leaves) == backbone_values(VARIANTS[variant])


def test_parameter_paths_are_those_that_configs_use():
    paths = flatten(shapes("b0")["params"])
    for path in (
        "backbone/stem/conv/kernel",
        "backbone/stage1/block1/depthwise/conv/kernel",
        "backbone/stage7/block1/se/reduce/bias",
        "backbone/stage2/block2/project/norm/scale",
        "backbone/top/norm/bias",
        "head/kernel",
    ):
        assert path in paths
    assert "backbone/stage1/block1/expand/conv/kernel" not in paths


def test_fused_blocks_have_no_depthwise_convolution():
    paths = flatten(shapes("v2b0")["params"])
    block = "backbone/stage2/block1"
    assert paths[f"{block}/expand/conv/kernel"].shape == (3, 3, 16, 64)
    assert paths[f"{block}/project/conv/kernel"].shape == (1, 1, 64, 32)
    assert paths["backbone/stage1/block1/project/conv/kernel"].shape == (3, 3, 32, 16)
    assert not any(path.startswith((f"{block}/depthwise", f"{block}/se")) for path in paths)
    assert "backbone/stage6/block8/se/reduce/kernel" in paths


@pytest.fixture(scope="module")
def lite0():
    model = EfficientNet(variant="lite0", num_classes=3)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 33, 47, 3)).astype(np.float32)

    def draw(path, leaf):  # like init, which takes eight seconds to compile
        if path[-1].key == "kernel":
            deviation = np.prod(leaf.shape[:-1]) ** -0.5
            return rng.normal(0.0, deviation, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    return model, dict(jax.tree.map_with_path(draw, shapes("lite0", 3))), x


@functools.partial(jax.jit, static_argnums=0)
def apply(model, variables, x, example):
    """Applies the model in training mode."""
    rngs = {"dropout": jax.random.key(5)}
    return model.apply(variables, x, True, example, rngs=rngs, mutable=["batch_stats"])


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, variables, x):
    return model.apply(variables, x)


def test_dropout_of_a_row_depends_only_on_its_number(lite0):
    model, variables, x = lite0
    frozen = model.clone(active=frozenset({"backbone/stage3/block2"}))
    x = jnp.broadcast_to(x[:1], x.shape)
    logits, _ = apply(frozen, variables, x, jnp.array([7, 8, 7, 9], jnp.uint32))
    swapped, _ = apply(frozen, variables, x, jnp.array([9, 7, 8, 7], jnp.uint32))
    np.testing.assert_allclose(logits[0], logits[2], rtol=1e-5, atol=1e-6)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    np.testing.assert_allclose(logits[3], swapped[0], rtol=1e-5, atol=1e-6)


def test_inactive_modules_run_as_in_evaluation(lite0):
    model, variables, x = lite0
    example = jnp.arange(4, dtype=jnp.uint32)
    still = model.clone(active=frozenset(), dropout=0.0)
    logits, updated = apply(still, variables, x, example)
    np.testing.assert_allclose(logits, evaluate(still, variables, x), rtol=1e-4, atol=1e-5)
    for got, kept in zip(
        jax.tree.leaves(updated["batch_stats"]),
        jax.tree.leaves(variables["batch_stats"]),
        strict=True,
    ):
        np.testing.assert_array_equal(got, kept)


def test_drop_path_acts_on_blocks_that_train(lite0):
    model, variables, x = lite0
    example = jnp.arange(4, dtype=jnp.uint32)
    block = frozenset({"backbone/stage6/block4"})
    expected = evaluate(model, variables, x)
    for rate, changes in ((0.0, False), (0.9, True)):
        one = model.clone(active=block, dropout=0.0, drop_path=rate)
        logits, _ = apply(one, variables, x, example)
        assert np.allclose(logits, expected, rtol=1e-4, atol=1e-5) != changes


def test_sections_one_after_the_other_are_the_whole(lite0):
    model, variables, x = lite0

    def sections(network, x, *ends):
        for begin, end in itertools.pairwise(ends):
            x = network.backbone(x, False, None, begin, end)
        return x

    whole = model.apply(variables, x, method=EfficientNet.features)
    parts = model.apply(variables, x, 0, 1, 5, 8, None, method=sections)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_active_norms_update_with_a_decay_of_099(lite0):
    model, variables, x = lite0
    example = jnp.arange(4, dtype=jnp.uint32)
    _, updated = apply(model, variables, x, example)
    before = flatten(variables["batch_stats"])
    after = flatten(updated["batch_stats"])
    kernel = variables["params"]["backbone"]["stem"]["conv"]["kernel"]
    conv = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    path = "backbone/stem/norm/mean"
    expected = 0.99 * before[path] + 0.01 * conv.mean(axis=(0, 1, 2))
    places = conv[..., 0].size  # whose values, of both signs, are added before they are divided
    near = 0.01 * sum_atol(places, np.abs(conv).mean(axis=(0, 1, 2)).max())
    np.testing.assert_allclose(after[path], expected, rtol=1e-4, atol=near)
    assert all(np.abs(after[p] - before[p]).max() > 0 for p in before)


def test_bfloat16_is_the_compute_dtype_and_logits_are_float32(lite0):
    model, variables, x = lite0
    half = model.clone(dtype=jnp.bfloat16)
    features = jax.eval_shape(functools.partial(half.apply, method="features"), variables, x)
    assert features.dtype == jnp.bfloat16
    logits = evaluate(half, variables, x)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, evaluate(model, variables, x), atol=0.2)


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"unknown model\.variant 'b9'; choose one of b0, b1"):
        EfficientNet(variant="b9").init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
