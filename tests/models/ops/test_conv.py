"""Compares the sum of slices with XLA's own convolution: outputs and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlcls_jax.models.ops import conv as conv_module


@settings(max_examples=16, deadline=None)
@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    channels=st.integers(1, 5),
    features=st.integers(1, 5),
    k=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["same", "symmetric"]),
    seed=st.integers(0, 99),
)
def test_equals_lax_convolution(height, width, channels, features, k, stride, padding, seed):
    assume(padding == "same" or k % 2 == 1)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, height, width, channels)).astype(np.float32)
    kernel = rng.normal(size=(k, k, channels, features)).astype(np.float32)

    @jax.jit  # one program per example
    def run(x, kernel, key):
        def outputs(conv):
            result, backward = jax.vjp(partial(conv, stride=stride, padding=padding), x, kernel)
            return result, *backward(jax.random.normal(key, result.shape))

        return outputs(conv_module.conv), outputs(conv_module.native_conv)

    for got, expected in zip(*run(x, kernel, jax.random.key(seed)), strict=True):
        most = max(1.0, np.abs(expected).max())  # sums over many positions round by their size
        np.testing.assert_allclose(got, expected, atol=1e-5 * most, rtol=1e-5)


@pytest.mark.parametrize("channels", [3, 8])
def test_only_few_channels_on_cpu_replace_the_native_convolution(channels):
    def program_text(platform):
        shapes = [(2, 16, 16, channels), (3, 3, channels, 8)]
        function = jax.jit(partial(conv_module.conv, stride=2))
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.export.export(function, platforms=[platform])(*arguments).mlir_module()

    assert ("stablehlo.convolution" in program_text("cpu")) == (channels > 4)
    assert "stablehlo.convolution" in program_text("cuda")
    assert "stablehlo.convolution" in program_text("tpu")
