"""Batch normalisation fused with its activation, with a handwritten gradient.

Automatic differentiation stores the normalised values and the activation's mask in addition to the
input.  Here the forward pass stores only the input and the backward pass recomputes the rest, which
trades memory traffic for cheap arithmetic.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from mlcls_jax.models.ops.choice import by_platform

Activation = Callable[[jax.Array], jax.Array]
AXES = (0, 1, 2)  # batch, height, width: all but the channels


def identity(x: jax.Array) -> jax.Array:
    """Returns x unchanged: the activation of layers that have none."""
    return x


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, followed by an activation.

    Computes activation(scale * (x - mean) / sqrt(variance + epsilon) + bias) per channel.  The
    variables are those of `flax.linen.BatchNorm`: params scale and bias, batch_stats mean and var.

    Attributes:
        activation: elementwise function of the normalised values.
        momentum: decay of the running statistics, as in Flax: the share of the old value that an
            update keeps.  PyTorch's momentum is 1 - decay.
        epsilon: added to the variance.
        unbiased: whether the running variance is updated with the unbiased estimate (n - 1).
        dtype: dtype of the result; the arithmetic is float32.
        axis: mesh axis over which the batch statistics are averaged; with None, each device
            normalises by the statistics of its own rows.
    """

    activation: Activation
    momentum: float
    epsilon: float
    unbiased: bool = False
    dtype: jnp.dtype = jnp.float32
    axis: str | None = None

    @nn.compact
    def _variables(self, channels: int):
        """Returns the parameters scale and bias, and the variables mean and var."""
        shape = (channels,)
        return (
            self.param("scale", nn.initializers.ones, shape, jnp.float32),
            self.param("bias", nn.initializers.zeros, shape, jnp.float32),
            self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32),
            self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32),
        )

    def running(self, channels: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Returns what `normalize_by` takes: mean, inverse, scale and bias, float32 [channel]."""
        scale, bias, mean, var = self._variables(channels)
        return mean.value, lax.rsqrt(var.value + self.epsilon), scale, bias

    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch height width channel"]:
        """Normalises by the batch statistics if `train`, otherwise by the running ones."""
        if not train:
            y: Any = normalize_by(x, *self.running(x.shape[-1]), self.activation)
            return y.astype(self.dtype)
        scale, bias, mean, var = self._variables(x.shape[-1])
        # Initialisation runs on one device, outside any mesh.
        axis = None if self.is_initializing() else self.axis
        normalized: Any = normalize_batch(x, scale, bias, self.activation, self.epsilon, axis)
        y, batch_mean, batch_var = normalized
        if not self.is_initializing():
            if self.unbiased:
                count = _count(x, axis)
                batch_var = batch_var * (count / max(count - 1, 1))
            update = 1.0 - self.momentum
            mean.value = self.momentum * mean.value + update * batch_mean
            var.value = self.momentum * var.value + update * batch_var
        return y.astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def normalize_by(x, mean, inverse, scale, bias, activation: Activation):
    """Normalises by given statistics and applies the activation.

    Args:
        x: [batch, height, width, channel], any float dtype.
        mean, inverse: float32 [channel]: the mean, and 1 / sqrt(variance + epsilon).  They are
            treated as constants: their gradient is zero.
        scale, bias: float32 [channel].
        activation: elementwise function.

    Returns:
        activation(scale * (x - mean) * inverse + bias), float32, of x's shape.
    """
    return activation(_affine(x, *coefficients(mean, inverse, scale, bias)))


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
    """Normalises by the mean and variance of the batch and applies the activation.

    The gradient of y flows through the statistics into x.  No gradient flows through the returned
    mean and variance, which are meant for the running averages.

    Args:
        x: [batch, height, width, channel], any float dtype.
        scale, bias: float32 [channel].
        activation: elementwise function.
        epsilon: added to the variance.
        axis: mesh axis; if given, the statistics are those of the rows of all its devices.

    Returns:
        (y, mean, variance): y is float32 and of x's shape; mean and variance (the biased one) are
        float32 [channel].
    """
    return _normalize_batch_forward(x, scale, bias, activation, epsilon, axis)[0]


def _two_means(x):
    values = x.astype(jnp.float32)
    return values.mean(AXES), jnp.square(values).mean(AXES)


def _one_reduction(x):
    """Sums the values and their squares in one reduction, which reads x once on any compiler."""
    values, zero = x.astype(jnp.float32), jnp.zeros((), jnp.float32)

    def add(total, term):
        return total[0] + term[0], total[1] + term[1]

    sums = lax.reduce((values, jnp.square(values)), (zero, zero), add, AXES)
    count = x.size // x.shape[-1]
    return sums[0] / count, sums[1] / count


# Means of the values and of their squares [channel], by the names of the table of choice.py.
MOMENTS = {"two_means": _two_means, "one_reduction": _one_reduction}


def _normalize_batch_forward(x, scale, bias, activation, epsilon, axis):
    facts = {"dtype": str(x.dtype), "channels": x.shape[-1], "side": max(x.shape[1:3])}
    moments = by_platform("batch_norm_moments", MOMENTS, x, **facts)
    mean, square = lax.pmean(moments, axis) if axis else moments
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    inverse = lax.rsqrt(var + epsilon)
    y = activation(_affine(x, *coefficients(mean, inverse, scale, bias)))
    return (y, mean, var), (x, mean, inverse, scale, bias)


def _normalize_batch_backward(activation, epsilon, axis, residuals, grads):
    del epsilon  # already part of `inverse` in the residuals
    x, mean, inverse, scale, _ = residuals
    before, dscale, dbias = _gradients(residuals, grads[0], activation)
    # dscale and dbias stay per device: the train step combines the gradients of parameters.
    sums = lax.psum((dscale, dbias), axis) if axis else (dscale, dbias)
    # dx = scale * inverse * (before - mean(before) - x_hat * mean(before * x_hat)), where x_hat is
    # the normalised x, rearranged into one multiply-add for each of `before` and x.
    count = _count(x, axis)
    factor = scale * inverse
    slope = -factor * inverse * sums[0] / count
    offset = -factor * sums[1] / count - slope * mean
    dx = before * factor + x.astype(jnp.float32) * slope + offset
    return dx.astype(x.dtype), dscale, dbias


normalize_batch.defvjp(_normalize_batch_forward, _normalize_batch_backward)


def _count(x, axis: str | None) -> int:
    """Returns the number of values per channel that enter the statistics."""
    return x.size // x.shape[-1] * (lax.axis_size(axis) if axis else 1)


def coefficients(mean, inverse, scale, bias):
    """Returns (factor, offset), which make `normalize_by` one multiply-add per value."""
    factor = scale * inverse
    return factor, bias - mean * factor


def _affine(x, factor, offset):
    return x.astype(jnp.float32) * factor + offset


def _gradients(residuals, grad, activation):
    """Returns the gradients of the activation's input, of scale and of bias."""
    # Without the barrier, XLA would share intermediate values with the forward pass and store them.
    (x, mean, inverse, scale, bias), grad = lax.optimization_barrier((residuals, grad))
    z = _affine(x, *coefficients(mean, inverse, scale, bias))
    before = jax.vjp(activation, z)[1](grad)[0]
    dbias = before.sum(AXES)
    dscale = ((before * x.astype(jnp.float32)).sum(AXES) - mean * dbias) * inverse
    return before, dscale, dbias
