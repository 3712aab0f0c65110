"""Compares the sum of shifted slices with XLA's grouped convolution: outputs and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlcls_jax.models.ops import depthwise
from mlcls_jax.models.ops.conv import native_conv


@settings(max_examples=16, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 23),  # the kernel gradient uses blocks of up to 112 positions
    width=st.integers(1, 13),
    channels=st.integers(1, 5),
    k=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["same", "symmetric"]),
    seed=st.integers(0, 99),
)
def test_equals_lax_convolution(batch, height, width, channels, k, stride, padding, seed):
    assume(padding == "same" or k % 2 == 1)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, height, width, channels)).astype(np.float32)
    kernel = rng.normal(size=(k, k, 1, channels)).astype(np.float32)

    @jax.jit  # one program per example
    def run(x, kernel, key):
        def outputs(conv):
            result, backward = jax.vjp(partial(conv, stride=stride, padding=padding), x, kernel)
            return result, *backward(jax.random.normal(key, result.shape))

        return outputs(depthwise.depthwise_conv), outputs(native_conv)

    (ours, *gradients), (theirs, *reference) = run(x, kernel, jax.random.key(seed))
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)
    for got, expected in zip(gradients, reference, strict=True):
        largest = max(1.0, float(jnp.abs(expected).max()))
        np.testing.assert_allclose(got, expected, atol=1e-5 * largest, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [113, 120])
def test_the_kernel_gradient_of_wide_images(width, stride):
    # Wider than one block of the sum; one width is a multiple of the block size, one is not.
    x = jax.random.normal(jax.random.key(0), (1, 3, width, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 2))
    _, backward = jax.vjp(partial(depthwise.depthwise_conv, stride=stride), x, kernel)
    expected, reference = jax.vjp(partial(native_conv, stride=stride), x, kernel)
    grad = jax.random.normal(jax.random.key(2), expected.shape)
    np.testing.assert_allclose(backward(grad)[1], reference(grad)[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_keep_the_native_convolution(platform):
    def loss(x, kernel):
        return depthwise.depthwise_conv(x, kernel, 2).sum()

    shapes = (
        jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.float32),
    )
    program = jax.export.export(jax.jit(jax.grad(loss, argnums=(0, 1))), platforms=[platform])
    text = program(*shapes).mlir_module()
    assert "stablehlo.convolution" in text
    assert "stablehlo.while" not in text


def test_cpu_program_has_no_convolution():
    def loss(x, kernel):
        return depthwise.depthwise_conv(x, kernel, 1).sum()

    arguments = jnp.ones((2, 9, 9, 8)), jnp.ones((5, 5, 1, 8))
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    assert "convolution(" not in (compiled.as_text() or "convolution(")


def test_bfloat16_is_summed_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 12, 12, 8))
    kernel = jax.random.normal(jax.random.key(1), (5, 5, 1, 8))
    exact, backward = jax.vjp(partial(native_conv, stride=1), x, kernel)
    half = [part.astype(jnp.bfloat16) for part in (x, kernel)]
    rounded, rounded_backward = jax.vjp(partial(depthwise.depthwise_conv, stride=1), *half)
    assert rounded.dtype == jnp.bfloat16
    grad = jnp.ones(exact.shape)
    results = (rounded, *rounded_backward(grad.astype(jnp.bfloat16)))
    for got, expected in zip(results, (exact, *backward(grad)), strict=True):
        # Inputs and result are rounded to 8 bits once each; 25 rounded sums would give 0.01.
        error = jnp.abs(got.astype(jnp.float32) - expected).max() / jnp.abs(expected).max()
        assert error < 5e-3
