"""Batch normalisation with its activation, as one function with its own gradient.

Automatic differentiation keeps the normalised values and the activation's mask besides the input.
Here the backward pass keeps the input alone and computes the rest again, which is cheap arithmetic
in place of memory traffic.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

Activation = Callable[[jax.Array], jax.Array]
AXES = (0, 1, 2)  # all but the channels


def identity(x: jax.Array) -> jax.Array:
    """No activation."""
    return x


class BatchNorm(nn.Module):
    """activation(scale * (x - mean) / sqrt(variance + epsilon) + bias), per channel.

    Attributes:
        activation: elementwise.
        momentum: share of a running statistic that stays at each update (PyTorch's is one minus).
        epsilon: added to the variance.
        unbiased: whether the running variance is updated by the sum of squares over n - 1.
        dtype: of the result; the arithmetic is float32.
        axis: of the mesh, over whose devices the batch's statistics are taken; None: each device
            normalises by those of its own rows.

    Variables are those of `flax.linen.BatchNorm`: params scale and bias, batch_stats mean and var.
    """

    activation: Activation
    momentum: float
    epsilon: float
    unbiased: bool = False
    dtype: jnp.dtype = jnp.float32
    axis: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch height width channel"]:
        """Normalises by the batch's own statistics if `train`, else by the running ones."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            inverse = lax.rsqrt(var.value + self.epsilon)
            y: Any = normalize_by(x, mean.value, inverse, scale, bias, self.activation)
            return y.astype(self.dtype)
        # An initialisation runs on one device, outside of any mesh.
        axis = None if self.is_initializing() else self.axis
        of_batch: Any = normalize_batch(x, scale, bias, self.activation, self.epsilon, axis)
        y, batch_mean, batch_var = of_batch
        if not self.is_initializing():
            if self.unbiased:
                count = _count(x, axis)
                batch_var = batch_var * (count / max(count - 1, 1))
            rest = 1.0 - self.momentum
            mean.value = self.momentum * mean.value + rest * batch_mean
            var.value = self.momentum * var.value + rest * batch_var
        return y.astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def normalize_by(x, mean, inverse, scale, bias, activation: Activation):
    """activation(scale * (x - mean) * inverse + bias) in float32, with given statistics.

    Args:
        x: [batch, height, width, channel], any float dtype.
        mean, inverse: float32 [channel], constants: their gradient is zero.
        scale, bias: float32 [channel].
    """
    return activation(_affine(x, *_coefficients(mean, inverse, scale, bias)))


def _normalize_by_forward(x, mean, inverse, scale, bias, activation):
    y = normalize_by(x, mean, inverse, scale, bias, activation)
    return y, (x, mean, inverse, scale, bias)


def _normalize_by_backward(activation, residuals, grad):
    x, mean, inverse, scale, _ = residuals
    before, dscale, dbias = _gradients(residuals, grad, activation)
    dx = (before * (inverse * scale)).astype(x.dtype)
    return dx, jnp.zeros_like(mean), jnp.zeros_like(inverse), dscale, dbias


normalize_by.defvjp(_normalize_by_forward, _normalize_by_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def normalize_batch(
    x, scale, bias, activation: Activation, epsilon: float, axis: str | None = None
):
    """The same by the batch's own mean and variance; returns (y, mean, variance).

    With `axis`, the batch is that of all devices of this axis of the mesh.

    The gradient goes through the statistics into x, but nothing that depends on the returned mean
    and variance reaches x: they are for running averages.
    """
    return _normalize_batch_forward(x, scale, bias, activation, epsilon, axis)[0]


def _normalize_batch_forward(x, scale, bias, activation, epsilon, axis):
    values = x.astype(jnp.float32)
    moments = values.mean(AXES), jnp.square(values).mean(AXES)
    mean, square = lax.pmean(moments, axis) if axis else moments
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    inverse = lax.rsqrt(var + epsilon)
    y = activation(_affine(x, *_coefficients(mean, inverse, scale, bias)))
    return (y, mean, var), (x, mean, inverse, scale, bias)


def _normalize_batch_backward(activation, epsilon, axis, residuals, grads):
    del epsilon  # is in the residuals, as part of inverse
    x, mean, inverse, scale, _ = residuals
    before, dscale, dbias = _gradients(residuals, grads[0], activation)
    # Those of scale and bias stay this device's share, as all gradients of parameters do.
    sums = lax.psum((dscale, dbias), axis) if axis else (dscale, dbias)
    # scale * inverse * (before - mean of before - normalised x * mean of (before * normalised x))
    count = _count(x, axis)
    factor = scale * inverse
    slope = -factor * inverse * sums[0] / count
    offset = -factor * sums[1] / count - slope * mean
    dx = before * factor + x.astype(jnp.float32) * slope + offset
    return dx.astype(x.dtype), dscale, dbias


normalize_batch.defvjp(_normalize_batch_forward, _normalize_batch_backward)


def _count(x, axis: str | None) -> int:
    """Values per channel that the statistics are of."""
    return x.size // x.shape[-1] * (lax.axis_size(axis) if axis else 1)


def _coefficients(mean, inverse, scale, bias):
    """(factor, offset): normalisation as one multiply-add per value."""
    factor = scale * inverse
    return factor, bias - mean * factor


def _affine(x, factor, offset):
    return x.astype(jnp.float32) * factor + offset


def _gradients(residuals, grad, activation):
    """The gradient before the activation, and those of scale and bias."""
    # The barrier keeps XLA from sharing intermediate values with the forward pass, which it would
    # have to store.
    (x, mean, inverse, scale, bias), grad = lax.optimization_barrier((residuals, grad))
    z = _affine(x, *_coefficients(mean, inverse, scale, bias))
    before = jax.vjp(activation, z)[1](grad)[0]
    dbias = before.sum(AXES)
    dscale = ((before * x.astype(jnp.float32)).sum(AXES) - mean * dbias) * inverse
    return before, dscale, dbias
