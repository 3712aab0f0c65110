"""Depthwise convolution: the native one on accelerators, a sum of shifted slices on CPU.

XLA's grouped convolution on CPU is some thirty times slower than the arithmetic needs.  There,
the convolution of one channel with k*k taps is k*k multiply-adds of shifted views, which XLA
fuses into one vectorised loop.  Automatic differentiation of that sum would keep k*k copies of
the input, so its gradients are written out below.  The choice is made inside the differentiation
rules with `lax.platform_dependent`, so a program that is exported for a GPU or TPU contains the
native convolution only.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mlcls_jax.models.padding import Padding, pad_widths


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
        stride: of both image axes.
        padding: see `pad_widths`.

    Returns:
        [batch, ceil(height / stride), ceil(width / stride), channel] of x's dtype, equal to
        `lax.conv_general_dilated(..., feature_group_count=channel)`.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_shifted_sum, stride=stride, padding=padding),
        default=partial(native_depthwise_conv, stride=stride, padding=padding),
    )


def _forward(x, kernel, stride, padding):
    return depthwise_conv(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, grad):
    return lax.platform_dependent(
        *residuals,
        grad,
        cpu=partial(_shifted_gradients, stride=stride, padding=padding),
        default=partial(_native_gradients, stride=stride, padding=padding),
    )


depthwise_conv.defvjp(_forward, _backward)


def native_depthwise_conv(x, kernel, stride: int, padding: Padding = "same"):
    """The same on every platform as XLA's grouped convolution, for converters that know that."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        _pad_widths(x, kernel.shape[0], stride, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _native_gradients(x, kernel, grad, stride, padding):
    native = partial(native_depthwise_conv, stride=stride, padding=padding)
    return jax.vjp(native, x, kernel)[1](grad)


def _pad_widths(x, k: int, stride: int, padding: Padding) -> list[tuple[int, int]]:
    """Of the rows and of the columns."""
    return [pad_widths(padding, size, k, stride) for size in x.shape[1:3]]


def _pad(x, rows: tuple[int, int], columns: tuple[int, int]):
    """Zero-pads, or crops where a width is negative, the two image axes."""
    none = (0, 0, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), [none, (*rows, 0), (*columns, 0), none])


def _window(x, row: int, column: int, height: int, width: int, stride: int):
    """The [height, width] view of x that starts at (row, column) and steps by stride."""
    batch, _, _, channels = x.shape
    end = (batch, row + (height - 1) * stride + 1, column + (width - 1) * stride + 1, channels)
    return lax.slice(x, (0, row, column, 0), end, (1, stride, stride, 1))


def _shifted_sum(x, kernel, stride, padding):
    k = kernel.shape[0]
    height, width = x.shape[1:3]
    padded = _pad(x, *_pad_widths(x, k, stride, padding))
    out = (-(-height // stride), -(-width // stride), stride)
    taps = [_window(padded, i, j, *out) * kernel[i, j, 0] for i in range(k) for j in range(k)]
    return sum(taps[1:], taps[0])


def _shifted_gradients(x, kernel, grad, stride, padding):
    widths = _pad_widths(x, kernel.shape[0], stride, padding)
    dx = _input_gradient(x.shape, kernel, grad, stride, low=[before for before, _ in widths])
    return dx, _kernel_gradient(_pad(x, *widths), kernel, grad, stride)


def _input_gradient(shape, kernel, grad, stride, low):
    """dx[s*u + a] = sum of grad[u + (a + low - i) / s] * kernel[i] over taps where s divides.

    Each output parity (a, b) is a shifted sum of its own; no zeros are multiplied.
    """
    k = kernel.shape[0]
    _, height, width, _ = shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    padded = _pad(grad, (k, k), (k, k))

    def shifts(parity, axis):
        """(tap, shift into grad) pairs that reach this parity."""
        reach = [(i, parity + low[axis] - i) for i in range(k)]
        return [(i, distance // stride) for i, distance in reach if distance % stride == 0]

    def parity_sum(a, b):
        total = jnp.zeros((shape[0], out_height, out_width, shape[3]), grad.dtype)
        for i, down in shifts(a, 0):
            for j, right in shifts(b, 1):
                view = _window(padded, k + down, k + right, out_height, out_width, 1)
                total += view * kernel[i, j, 0]
        return total

    if stride == 1:
        return parity_sum(0, 0)
    rows = [
        jnp.stack([parity_sum(a, b) for b in range(stride)], axis=3) for a in range(stride)
    ]  # each [batch, out, out, stride, channel]
    dx = jnp.stack(rows, axis=2)  # [batch, out, stride, out, stride, channel]
    dx = dx.reshape(shape[0], out_height * stride, out_width * stride, shape[3])
    return dx[:, :height, :width]


def _kernel_gradient(padded, kernel, grad, stride):
    """For each tap, the sum of view * grad over batch and image, one picture after the other.

    A picture and its gradient stay in the cache while all k*k taps read them.
    """
    k = kernel.shape[0]
    out_height, out_width = grad.shape[1:3]

    def add_picture(total, picture):
        rows, grads = (part[None] for part in picture)
        views = (
            _window(rows, i, j, out_height, out_width, stride) for i in range(k) for j in range(k)
        )
        taps = [(view * grads).sum((0, 1, 2), dtype=jnp.float32) for view in views]
        return total + jnp.stack(taps), None

    total = jnp.zeros((k * k, grad.shape[3]), jnp.float32)
    total, _ = lax.scan(add_picture, total, (padded, grad))
    return total.reshape(kernel.shape).astype(kernel.dtype)
