"""Depthwise convolution: XLA's own, a sum of shifted slices, or a Pallas kernel for GPUs.

XLA's grouped convolution on CPU is about thirty times slower than the arithmetic requires.
Therefore the convolution of a channel with k*k taps is computed there as k*k multiply-adds of
shifted views, which XLA fuses into one vectorised loop.  Automatic differentiation of that sum
would store k*k copies of the input, so its gradients are written out below.

The table of choice.py decides for the result and for each gradient, inside the differentiation
rules, so a program that is exported for a platform contains only what was chosen for it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mlcls_jax.models.conventions import Padding
from mlcls_jax.models.ops import pallas_depthwise
from mlcls_jax.models.ops.choice import by_platform
from mlcls_jax.models.ops.conv import (
    image_padding,
    native_conv,
    native_gradients,
    pad,
    shape_facts,
    taps,
    window,
)

TERMS = 112  # most terms of one fused sum; with many more, compilers spill registers


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv(
    x: Float[Array, "batch height width channel"],
    kernel: Float[Array, "k k 1 channel"],
    stride: int,
    padding: Padding = "same",
) -> Float[Array, "batch out_height out_width channel"]:
    """Convolves each channel with its own k*k kernel.

    Args:
        x: activations, NHWC, float32 or bfloat16.
        kernel: [k, k, 1, channel] of x's dtype.
        stride: step along both image axes.
        padding: see `pad_widths`.

    Returns:
        [batch, ceil(height / stride), ceil(width / stride), channel] of x's dtype, equal to
        `lax.conv_general_dilated(..., feature_group_count=channel)`.
    """
    facts, options = shape_facts(x, kernel, stride), {"stride": stride, "padding": padding}
    implementations = {name: partial(each, **options) for name, each in FORWARD.items()}
    return by_platform("depthwise", implementations, x, kernel, **facts)


def _forward(x, kernel, stride, padding):
    return depthwise_conv(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, grad):
    x, kernel = residuals
    facts, options = shape_facts(x, kernel, stride), {"stride": stride, "padding": padding}

    def gradient(operation, known):
        implementations = {name: partial(each, **options) for name, each in known.items()}
        return by_platform(operation, implementations, x, kernel, grad, **facts)

    return (
        gradient("depthwise_input_gradient", INPUT_GRADIENT),
        gradient("depthwise_kernel_gradient", KERNEL_GRADIENT),
    )


depthwise_conv.defvjp(_forward, _backward)


def _shifted_sum(x, kernel, stride, padding):
    weights = kernel.astype(jnp.float32)
    terms = [
        view.astype(jnp.float32) * weights[i, j, 0]
        for i, j, view in taps(x, kernel.shape[0], stride, padding)
    ]
    return sum(terms[1:], terms[0]).astype(x.dtype)


def _shifted_input_gradient(x, kernel, grad, stride, padding):
    widths = image_padding(x, kernel.shape[0], stride, padding)
    return _input_gradient(x.shape, kernel, grad, stride, low=[before for before, _ in widths])


def _shifted_kernel_gradient(x, kernel, grad, stride, padding):
    widths = image_padding(x, kernel.shape[0], stride, padding)
    return _kernel_gradient(pad(x, *widths), kernel, grad, stride)


def _native_input_gradient(x, kernel, grad, stride, padding):
    return native_gradients(x, kernel, grad, stride, padding)[0]


def _native_kernel_gradient(x, kernel, grad, stride, padding):
    return native_gradients(x, kernel, grad, stride, padding)[1]


def _input_gradient(shape, kernel, grad, stride, low):
    """Returns dx, computed separately for each remainder (a, b) of its indices modulo the stride.

    Along one axis, dx[s*u + a] = sum of grad[u + (a + low - i) / s] * kernel[i] over the taps i
    for which s divides a + low - i.  So no zeros are multiplied.
    """
    k = kernel.shape[0]
    _, height, width, _ = shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    weights = kernel.astype(jnp.float32)

    def shifts(parity, axis):
        """Returns the (tap, shift into grad) pairs that contribute to this remainder."""
        reach = [(i, parity + low[axis] - i) for i in range(k)]
        return [(i, distance // stride) for i, distance in reach if distance % stride == 0]

    ends = [[shift for p in range(stride) for _, shift in shifts(p, axis)] for axis in range(2)]
    before = [max(0, -min(shift)) for shift in ends]
    after = [max(0, max(shift)) for shift in ends]
    padded = pad(grad, (before[0], after[0]), (before[1], after[1]))

    def parity_sum(a, b):
        total = jnp.zeros((shape[0], out_height, out_width, shape[3]), jnp.float32)
        for i, down in shifts(a, 0):
            for j, right in shifts(b, 1):
                view = window(padded, before[0] + down, before[1] + right, out_height, out_width, 1)
                total += view.astype(jnp.float32) * weights[i, j, 0]
        return total.astype(grad.dtype)

    if stride == 1:
        return parity_sum(0, 0)
    rows = [
        jnp.stack([parity_sum(a, b) for b in range(stride)], axis=3) for a in range(stride)
    ]  # each [batch, out, out, stride, channel]
    dx = jnp.stack(rows, axis=2)  # [batch, out, stride, out, stride, channel]
    dx = dx.reshape(shape[0], out_height * stride, out_width * stride, shape[3])
    return dx[:, :height, :width]


def _kernel_gradient(padded, kernel, grad, stride):
    """Returns the sum over all positions of grad times the k*k window of x at that position.

    This is the shifted sum again, with windows of x as the image and blocks of grad as the kernel.
    """
    k = kernel.shape[0]
    batch, out_height, out_width, channels = grad.shape
    columns = _block(out_width, TERMS)
    rows = _block(out_height, TERMS // columns)
    down, across = -(-out_height // rows), -(-out_width // columns)
    grad = pad(grad, (0, down * rows - out_height), (0, across * columns - out_width))
    missing = [max(0, (grad.shape[a] - 1) * stride + k - padded.shape[a]) for a in (1, 2)]
    padded = pad(padded, (0, missing[0]), (0, missing[1]))

    def add_block(total, index):
        row, column = index // across * rows, index % across * columns
        xs_shape = (batch, (rows - 1) * stride + k, (columns - 1) * stride + k, channels)
        xs_start = (0, row * stride, column * stride, 0)
        xs = lax.dynamic_slice(padded, xs_start, xs_shape).astype(jnp.float32)
        grads_shape = (batch, rows, columns, channels)
        grads = lax.dynamic_slice(grad, (0, row, column, 0), grads_shape).astype(jnp.float32)
        terms = [
            window(xs, i * stride, j * stride, k, k, 1) * grads[:, i, None, j, None]
            for i in range(rows)
            for j in range(columns)
        ]
        return total + sum(terms[1:], terms[0]), None

    total = jnp.zeros((batch, k, k, channels), jnp.float32)
    total, _ = lax.scan(add_block, total, jnp.arange(down * across))
    return total.sum(0)[:, :, None].astype(kernel.dtype)


def _block(size: int, limit: int) -> int:
    """Returns the smallest block size that covers `size` with the fewest blocks up to `limit`."""
    blocks = -(-size // max(limit, 1))
    return -(-size // blocks)


# Implementations by the names of the table: functions of (x, kernel), and of (x, kernel, grad).
FORWARD = {
    "native": native_conv,
    "shifted_sum": _shifted_sum,
    "pallas": pallas_depthwise.forward,
}
INPUT_GRADIENT = {
    "native": _native_input_gradient,
    "shifted_sum": _shifted_input_gradient,
    "pallas": pallas_depthwise.input_gradient,
}
KERNEL_GRADIENT = {
    "native": _native_kernel_gradient,
    "shifted_sum": _shifted_kernel_gradient,
    "pallas": pallas_depthwise.kernel_gradient,
}
