"""Depthwise convolution, normalisation by running statistics and activation as one operation.

Computed one after the other, the result of the convolution is written to memory and read again.  A
Pallas kernel normalises it before it is written.  The table of ops/choice.py decides, under
"normalized_depthwise"; where gradients are needed, the steps stay separate, because the gradient
needs the result of the convolution.
"""

from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float

from mlcls_jax.models.batch_norm import Activation, coefficients, normalize_by
from mlcls_jax.models.conventions import Padding
from mlcls_jax.models.ops import pallas_depthwise
from mlcls_jax.models.ops.choice import by_platform
from mlcls_jax.models.ops.conv import shape_facts
from mlcls_jax.models.ops.depthwise import depthwise_conv


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def normalized_depthwise(
    x: Float[Array, "batch height width channel"],
    kernel: Float[Array, "k k 1 channel"],
    mean: Float[Array, " channel"],
    inverse: Float[Array, " channel"],
    scale: Float[Array, " channel"],
    bias: Float[Array, " channel"],
    activation: Activation,
    stride: int,
    padding: Padding,
) -> Float[Array, "batch out_height out_width channel"]:
    """Returns the normalised and activated result of a depthwise convolution.

    Args:
        x, kernel, stride, padding: see `depthwise.depthwise_conv`.
        mean, inverse, scale, bias, activation: see `batch_norm.normalize_by`.

    Returns:
        An array of x's dtype.
    """
    operands = x, kernel, mean, inverse, scale, bias
    options = {"activation": activation, "stride": stride, "padding": padding}
    known = {name: partial(each, **options) for name, each in IMPLEMENTATIONS.items()}
    return by_platform("normalized_depthwise", known, *operands, **shape_facts(x, kernel, stride))


def separate(x, kernel, mean, inverse, scale, bias, activation, stride, padding):
    """Computes `normalized_depthwise` as a convolution and a normalisation."""
    convolved = depthwise_conv(x, kernel, stride, padding)
    y: Any = normalize_by(convolved, mean, inverse, scale, bias, activation)
    return y.astype(x.dtype)


def fused(
    x, kernel, mean, inverse, scale, bias, activation, stride, padding, interpret: bool = False
):
    """Computes `normalized_depthwise` in one Pallas kernel."""
    affine = coefficients(mean, inverse, scale, bias)
    return pallas_depthwise.forward(x, kernel, stride, padding, interpret, affine, activation)


def _forward(x, kernel, mean, inverse, scale, bias, *options):
    return jax.vjp(
        lambda *operands: separate(*operands, *options), x, kernel, mean, inverse, scale, bias
    )


def _backward(activation, stride, padding, gradients, grad):
    del activation, stride, padding  # already part of `gradients`
    return gradients(grad)


normalized_depthwise.defvjp(_forward, _backward)

# Implementations by the names of the table.
IMPLEMENTATIONS = {"separate": separate, "pallas": fused}
