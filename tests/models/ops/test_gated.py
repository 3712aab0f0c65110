"""Compares scaled kernels with scaled values, and checks where each of them is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlcls_jax.models.ops import gated


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
@example(batch=3, height=13, width=11, channels=9, features=4, seed=0)  # scales kernels
@example(batch=3, height=3, width=5, channels=9, features=4, seed=0)  # scales values
def test_equals_the_product_of_scaled_values(batch, height, width, channels, features, seed):
    arguments = draw(np.random.default_rng(seed), shapes(batch, height, width, channels, features))
    ours, plain = jax.jit(
        lambda *arguments: (
            with_gradients(gated.gated_product, *arguments),
            with_gradients(gated.scaled_values, *arguments),
        )
    )(*arguments)
    for got, expected in zip(ours, plain, strict=True):
        largest = max(1.0, np.abs(expected).max())  # rounding errors of sums grow with their size
        np.testing.assert_allclose(got, expected, atol=1e-5 * largest, rtol=1e-5)


def products(platform, side, dtype=jnp.float32):
    """Returns the products in the program for two images, 16 channels and 8 features."""
    function = jax.jit(lambda *arrays: with_gradients(gated.gated_product, *arrays))
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes(2, side, side, 16, 8)]
    text = jax.export.export(function, platforms=[platform])(*arguments).mlir_module()
    return [line for line in text.splitlines() if "stablehlo.dot_general" in line]


def test_bfloat16_is_summed_in_float32():
    """The gradients are summed over positions and then over images, and rounded once."""
    assert any("-> tensor<2x16x8xf32>" in line for line in products("cpu", 20, jnp.bfloat16))
    arguments = draw(np.random.default_rng(0), shapes(3, 40, 40, 8, 4), jnp.bfloat16)
    exact = with_gradients(gated.scaled_values, *(x.astype(jnp.float32) for x in arguments))
    for got, expected in zip(with_gradients(gated.gated_product, *arguments), exact, strict=True):
        assert got.dtype == jnp.bfloat16
        error = np.abs(got.astype(jnp.float32) - expected).max() / np.abs(expected).max()
        assert error < 2 * 2**-8


@pytest.mark.parametrize(("side", "scales_kernels"), [(20, True), (6, False)])
def test_kernels_are_scaled_on_cpu_if_an_image_has_many_positions(side, scales_kernels):
    """On accelerators, the program never has a product over a batch of kernels."""

    def are_scaled(platform):
        lines = products(platform, side)
        assert lines
        return any("batching_dims" in line for line in lines)

    assert are_scaled("cpu") == scales_kernels
    assert not are_scaled("cuda") and not are_scaled("tpu")
