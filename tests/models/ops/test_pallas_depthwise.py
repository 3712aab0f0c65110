"""Compares the Pallas kernels, run by XLA, with XLA's grouped convolution and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.models.ops import pallas_depthwise
from mlcls_jax.models.ops.conv import native_conv, native_gradients


@pytest.mark.parametrize(
    ("k", "stride", "padding", "shape"),
    [
        (3, 1, "same", (2, 5, 19, 24)),
        (5, 2, "same", (1, 9, 18, 16)),
        (3, 2, "symmetric", (3, 8, 7, 6)),
        (5, 1, "symmetric", (1, 3, 4, 1)),
    ],
)
def test_equals_lax_convolution(k, stride, padding, shape, monkeypatch):
    monkeypatch.setattr(pallas_depthwise, "PROGRAMS", 4)  # so that a program has several rows
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(k, k, 1, shape[-1])), jnp.float32)
    options = {"stride": stride, "padding": padding}
    expected = native_conv(x, kernel, **options)
    grad = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    references = (expected, *native_gradients(x, kernel, grad, **options))
    functions = (
        lambda: pallas_depthwise.forward(x, kernel, **options, interpret=True),
        lambda: pallas_depthwise.input_gradient(x, kernel, grad, **options, interpret=True),
        lambda: pallas_depthwise.kernel_gradient(x, kernel, grad, **options, interpret=True),
    )
    for function, reference in zip(functions, references, strict=True):
        np.testing.assert_allclose(jax.jit(function)(), reference, atol=2e-5, rtol=1e-5)


def test_bfloat16_is_summed_in_float32():
    x = jnp.ones((1, 8, 8, 8), jnp.bfloat16)
    kernel = jnp.full((5, 5, 1, 8), 1 / 3, jnp.bfloat16)
    result = pallas_depthwise.forward(x, kernel, 1, "same", interpret=True)
    assert result.dtype == jnp.bfloat16
    exact = 25 * float(kernel[0, 0, 0, 0])
    assert abs(float(result[0, 4, 4, 0]) - exact) <= exact * 2**-8
