"""Gated product: scales values by a gate per image and channel, then multiplies by a kernel.

On accelerators, the compiler decides how to compute it.  On CPU, scaling the values takes a pass
over the largest activations of a block, and so do its gradients.  If an image has many positions,
scaling a copy of the kernel for each image gives the same result with a fraction of the memory
traffic.  With few positions, the kernels of all images and their gradients cost more than they
save, so the table of choice.py has a limit.  It is read inside the differentiation rules.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlcls_jax.models.ops.choice import by_platform
from mlcls_jax.models.ops.conv import pointwise


@jax.custom_vjp
def gated_product(
    x: Float[Array, "batch height width channel"],
    gate: Float[Array, "batch channel"],
    kernel: Float[Array, "channel feature"],
) -> Float[Array, "batch height width feature"]:
    """Returns (x * gate) @ kernel; all arguments and the result have the same dtype."""
    known = {"scaled_values": scaled_values, "scaled_kernels": _scaled_kernels}
    return by_platform("gated_product", known, x, gate, kernel, **_facts(x, kernel))


def _forward(x, gate, kernel):
    return gated_product(x, gate, kernel), (x, gate, kernel)


def _backward(residuals, grad):
    x, gate, kernel = residuals
    known = {"scaled_values": _native_gradients, "scaled_kernels": _scaled_kernels_gradients}
    return by_platform("gated_product", known, x, gate, kernel, grad, **_facts(x, kernel))


gated_product.defvjp(_forward, _backward)


def _facts(x, kernel) -> dict[str, str | float]:
    positions = x.shape[1] * x.shape[2]
    return {"dtype": str(x.dtype), "positions_per_feature": positions / kernel.shape[1]}


def scaled_values(x, gate, kernel):
    """Returns (x * gate) @ kernel, computed in the same way on every platform."""
    return pointwise(x * gate[:, None, None], kernel)


def _native_gradients(x, gate, kernel, grad):
    return jax.vjp(scaled_values, x, gate, kernel)[1](grad)


def _scaled_kernels(x, gate, kernel):
    return _product_per_image(x, gate[:, :, None] * kernel)


def _product_per_image(x, kernels):
    """Multiplies each image by its own kernel, out of [batch, channel, feature]."""
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    return jnp.einsum("bpc,bcf->bpf", rows, kernels).reshape(*x.shape[:-1], kernels.shape[2])


def _scaled_kernels_gradients(x, gate, kernel, grad):
    rows, grads = (array.reshape(array.shape[0], -1, array.shape[-1]) for array in (x, grad))
    # The kernel gradient of each image, before its gate; in float32, because it is summed again.
    per_image = jnp.einsum("bpc,bpf->bcf", rows, grads, preferred_element_type=jnp.float32)
    dx = _product_per_image(grad, jnp.swapaxes(gate[:, :, None] * kernel, 1, 2))
    dgate = (per_image * kernel.astype(jnp.float32)).sum(2)
    dkernel = jnp.einsum("bc,bcf->cf", gate.astype(jnp.float32), per_image)
    return dx, dgate.astype(gate.dtype), dkernel.astype(kernel.dtype)
