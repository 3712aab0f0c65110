"""A product over the channels, of values that a gate per image and channel scales first.

On accelerators how is left to the compiler.  On CPU, scaling the values is a pass over the
largest activations of a block, and so are its gradients; where an image has many positions, its
own scaled kernel gives the same for a fraction of the memory traffic.  As in depthwise.py, the
choice is made inside the differentiation rules.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mlcls_jax.models.ops.conv import pointwise

# Positions for each feature, from which on kernels are scaled: with fewer, as many kernels as
# images, and the gradients of all of them, are more than what is saved.
MANY = 10


@jax.custom_vjp
def gated_product(
    x: Float[Array, "batch height width channel"],
    gate: Float[Array, "batch channel"],
    kernel: Float[Array, "channel feature"],
) -> Float[Array, "batch height width feature"]:
    """(x * gate) @ kernel, all of one dtype."""
    if not _has_many_positions(x, kernel):
        return scaled_values(x, gate, kernel)
    return lax.platform_dependent(x, gate, kernel, cpu=_scaled_kernels, default=scaled_values)


def _forward(x, gate, kernel):
    return gated_product(x, gate, kernel), (x, gate, kernel)


def _backward(residuals, grad):
    x, gate, kernel = residuals
    if not _has_many_positions(x, kernel):
        return _native_gradients(x, gate, kernel, grad)
    return lax.platform_dependent(
        x, gate, kernel, grad, cpu=_scaled_kernels_gradients, default=_native_gradients
    )


gated_product.defvjp(_forward, _backward)


def _has_many_positions(x, kernel) -> bool:
    return x.shape[1] * x.shape[2] >= MANY * kernel.shape[1]


def scaled_values(x, gate, kernel):
    """The same on every platform, as it is written."""
    return pointwise(x * gate[:, None, None], kernel)


def _native_gradients(x, gate, kernel, grad):
    return jax.vjp(scaled_values, x, gate, kernel)[1](grad)


def _scaled_kernels(x, gate, kernel):
    return _of_each(x, gate[:, :, None] * kernel)


def _of_each(x, kernels):
    """Every image by its own kernel [batch, channel, feature]."""
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    return jnp.einsum("bpc,bcf->bpf", rows, kernels).reshape(*x.shape[:-1], kernels.shape[2])


def _scaled_kernels_gradients(x, gate, kernel, grad):
    rows, grads = (each.reshape(each.shape[0], -1, each.shape[-1]) for each in (x, grad))
    exact = {"preferred_element_type": jnp.float32}
    of_kernels = jnp.einsum("bpc,bpf->bcf", rows, grads, **exact)  # each image's, ungated
    dx = _of_each(grad, jnp.swapaxes(gate[:, :, None] * kernel, 1, 2))
    dgate = (of_kernels * kernel.astype(jnp.float32)).sum(2)
    dkernel = jnp.einsum("bc,bcf->cf", gate.astype(jnp.float32), of_kernels)
    return dx, dgate.astype(gate.dtype), dkernel.astype(kernel.dtype)
