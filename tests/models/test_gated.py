"""Scaled kernels against scaled values, outputs and gradients, and where each of them is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcls_jax.models import gated


def with_gradients(product, x, gate, kernel, grad):
    result, backward = jax.vjp(product, x, gate, kernel)
    return result, *backward(grad)


def draw(rng, shapes, dtype=np.float32):
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def shapes(batch, height, width, channels, features):
    positions = (batch, height, width)
    return [(*positions, channels), (batch, channels), (channels, features), (*positions, features)]


@settings(max_examples=16, deadline=None)
@given(
    batch=st.integers(1, 4),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    channels=st.integers(1, 9),
    features=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_equals_the_product_of_scaled_values(batch, height, width, channels, features, seed):
    arguments = draw(np.random.default_rng(seed), shapes(batch, height, width, channels, features))
    ours, plain = jax.jit(
        lambda *arguments: (
            with_gradients(gated.gated_product, *arguments),
            with_gradients(gated.scaled_values, *arguments),
        )
    )(*arguments)
    for got, wanted in zip(ours, plain, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)


def test_bfloat16_is_summed_in_float32():
    """As close to the gradients of float32 as rounding the results to bfloat16 is."""
    arguments = draw(np.random.default_rng(0), shapes(3, 40, 40, 8, 4), jnp.bfloat16)
    exact = with_gradients(gated.scaled_values, *(each.astype(jnp.float32) for each in arguments))
    for got, wanted in zip(with_gradients(gated.gated_product, *arguments), exact, strict=True):
        assert got.dtype == jnp.bfloat16
        error = np.abs(got.astype(jnp.float32) - wanted).max() / np.abs(wanted).max()
        assert error < 2 * 2**-8


@pytest.mark.parametrize(("side", "scales_kernels"), [(20, True), (6, False)])
def test_kernels_are_scaled_on_cpu_where_a_picture_has_many_positions(side, scales_kernels):
    """On accelerators never: the program has no product over a batch of kernels."""

    def products(platform):
        function = jax.jit(lambda *each: with_gradients(gated.gated_product, *each))
        arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes(2, side, side, 16, 8)]
        text = jax.export.export(function, platforms=[platform])(*arguments).mlir_module()
        return [line for line in text.splitlines() if "stablehlo.dot_general" in line]

    assert any("batching_dims" in line for line in products("cpu")) == scales_kernels
    for platform in ("cuda", "tpu"):
        assert products(platform) and not any(
            "batching_dims" in line for line in products(platform)
        )
