"""Compares depthwise convolution and normalisation in one kernel with the separate steps."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mlcls_jax.models import normalized_depthwise as module
from mlcls_jax.models.batch_norm import identity
from mlcls_jax.models.blocks import NormalizedConv
from mlcls_jax.models.conventions import KERAS
from mlcls_jax.models.ops import choice
from mlcls_jax.models.ops.conv import native_conv

CHANNELS = 24
CASES = [(3, 1, "same", nn.silu), (5, 2, "symmetric", nn.relu6), (3, 2, "same", identity)]


def operands(k: int, dtype="float32"):
    """Returns x, kernel, mean, inverse, scale and bias."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 9, 19, CHANNELS)), dtype)
    kernel = jnp.asarray(rng.normal(size=(k, k, 1, CHANNELS)), dtype)
    mean, scale, bias = (jnp.asarray(rng.normal(size=CHANNELS), "f4") for _ in range(3))
    return x, kernel, mean, jnp.asarray(rng.uniform(0.5, 2, CHANNELS), "f4"), scale, bias


@pytest.mark.parametrize(("k", "stride", "padding", "activation"), CASES)
def test_one_kernel_equals_its_parts(k, stride, padding, activation):
    x, kernel, mean, inverse, scale, bias = operands(k)
    fused = module.fused(
        x, kernel, mean, inverse, scale, bias, activation, stride, padding, interpret=True
    )
    expected = activation((native_conv(x, kernel, stride, padding) - mean) * inverse * scale + bias)
    np.testing.assert_allclose(fused, expected, atol=5e-5, rtol=1e-5)


def test_bfloat16_is_normalised_before_it_is_rounded():
    given = operands(5, "bfloat16")
    fused = module.fused(*given, nn.silu, 1, "same", interpret=True)
    assert fused.dtype == jnp.bfloat16
    exact = module.separate(*(array.astype("f4") for array in given), nn.silu, 1, "same")
    np.testing.assert_allclose(fused.astype("f4"), exact, rtol=2**-8, atol=1e-6)


def test_gradients_are_those_of_the_separate_steps():
    given = operands(3)

    def total(function):
        return lambda x, kernel, scale, bias: (
            function(x, kernel, *given[2:4], scale, bias, nn.silu, 1, "same") ** 2
        ).sum()

    both = [
        jax.grad(total(function), argnums=(0, 1, 2, 3))(*given[:2], *given[4:])
        for function in (module.normalized_depthwise, module.separate)
    ]
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.fixture
def in_one_kernel(tmp_path, monkeypatch):
    """A table that asks for the Pallas kernel on GPUs."""
    path = tmp_path / "kernels.json"
    rules = [{"platform": "cuda", "use": "pallas"}, {"use": "separate"}]
    path.write_text(json.dumps({"normalized_depthwise": rules}))
    monkeypatch.setenv(choice.VARIABLE, str(path))
    choice.table.cache_clear()
    yield
    choice.table.cache_clear()


def lowered(train: bool, platform: str) -> str:
    """Returns the program of a depthwise layer for a platform."""
    layer = NormalizedConv(activation=nn.silu, kernel_size=3, convention=KERAS)
    x = jnp.ones((1, 8, 8, 16))
    variables = layer.init(jax.random.key(0), x, False)

    def apply(x):
        return layer.apply(variables, x, train, mutable=["batch_stats"])[0]

    return jax.jit(apply).trace(x).lower(lowering_platforms=(platform,)).as_text()


def test_the_table_puts_it_into_evaluation_on_its_platform_only(in_one_kernel):
    assert "triton" in lowered(False, "cuda")
    assert "triton" not in lowered(True, "cuda")  # statistics of the batch come first
    assert "triton" not in lowered(False, "cpu")


def test_the_shipped_table_keeps_the_steps_separate():
    assert "triton" not in lowered(False, "cuda")
