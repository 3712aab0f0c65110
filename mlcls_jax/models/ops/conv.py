"""Convolution over all channels: XLA's own, or a sum of slices, which CPUs use for the first layer.

With three input channels and a stride, XLA's convolution on CPU is three times slower than 27
multiply-adds of a pixel's value with the kernel's row of output channels, which XLA fuses into one
vectorised loop.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mlcls_jax.models.conventions import Padding, pad_widths
from mlcls_jax.models.ops.choice import by_platform


def image_padding(x, k: int, stride: int, padding: Padding) -> list[tuple[int, int]]:
    """Returns the zeros before and after the rows and the columns of x; see `pad_widths`.

    Args:
        x: [batch, height, width, channel].
        k: height and width of the kernel.
        stride: step along both image axes.
        padding: see `pad_widths`.
    """
    return [pad_widths(padding, size, k, stride) for size in x.shape[1:3]]


def pad(x, rows: tuple[int, int], columns: tuple[int, int]):
    """Zero-pads the two image axes of x; a negative width crops."""
    none = (0, 0, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), [none, (*rows, 0), (*columns, 0), none])


def window(x, row: int, column: int, height: int, width: int, stride: int):
    """Returns the [height, width] window of x that starts at (row, column) and steps by stride."""
    batch, _, _, channels = x.shape
    end = (batch, row + (height - 1) * stride + 1, column + (width - 1) * stride + 1, channels)
    return lax.slice(x, (0, row, column, 0), end, (1, stride, stride, 1))


def taps(x, k: int, stride: int, padding: Padding) -> list[tuple[int, int, Any]]:
    """Returns (i, j, view) for each kernel position: view holds the pixels kernel[i, j] weights.

    Arguments are those of `image_padding`; a view is [batch, out_height, out_width, channel].
    """
    height, width = (-(-size // stride) for size in x.shape[1:3])
    padded = pad(x, *image_padding(x, k, stride, padding))
    return [(i, j, window(padded, i, j, height, width, stride)) for i in range(k) for j in range(k)]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(
    x: Float[Array, "batch height width channel"],
    kernel: Float[Array, "k k channel feature"],
    stride: int,
    padding: Padding = "same",
) -> Float[Array, "batch out_height out_width feature"]:
    """Convolves with a k*k kernel.

    Args:
        x: activations, NHWC, float32 or bfloat16.
        kernel: [k, k, channel, feature] of x's dtype.
        stride: step along both image axes.
        padding: see `pad_widths`.

    Returns:
        [batch, ceil(height / stride), ceil(width / stride), feature] of x's dtype, equal to
        `lax.conv_general_dilated`.
    """
    implementations = {
        "native": partial(native_conv, stride=stride, padding=padding),
        "shifted_sum": partial(_shifted_sum, stride=stride, padding=padding),
    }
    return by_platform("conv", implementations, x, kernel, **shape_facts(x, kernel, stride))


def _forward(x, kernel, stride, padding):
    return conv(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, grad):
    x, kernel = residuals
    return native_gradients(x, kernel, grad, stride, padding)


conv.defvjp(_forward, _backward)


def pointwise(x, kernel):
    """Computes a 1x1 convolution as one matrix product, so its kernel gradient is one as well.

    Args:
        x: [..., channel].
        kernel: [channel, feature].

    Returns:
        [..., feature].
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


def native_conv(x, kernel, stride: int, padding: Padding = "same"):
    """Convolves with XLA's convolution on every platform, as converters require.

    Args:
        x: [batch, height, width, channel].
        kernel: [k, k, channel / groups, feature]; its third axis determines the number of groups,
            so a length of 1 means a depthwise convolution.
        stride: step along both image axes.
        padding: see `pad_widths`.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        image_padding(x, kernel.shape[0], stride, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def native_gradients(x, kernel, grad, stride: int, padding: Padding):
    """Returns the gradients of x and kernel, given the gradient of `native_conv`'s result."""
    native = partial(native_conv, stride=stride, padding=padding)
    return jax.vjp(native, x, kernel)[1](grad)


def shape_facts(x, kernel, stride: int) -> dict[str, str | int]:
    """Returns what rules of `choice` may ask for: dtype, kernel_size, stride, channels, side."""
    return {
        "dtype": str(x.dtype),
        "kernel_size": kernel.shape[0],
        "stride": stride,
        "channels": x.shape[-1],
        "side": max(x.shape[1:3]),
    }


def _shifted_sum(x, kernel, stride, padding):
    k, _, channels, _ = kernel.shape
    weights = kernel.astype(jnp.float32)
    terms = [
        view[..., c, None].astype(jnp.float32) * weights[i, j, c]
        for i, j, view in taps(x, k, stride, padding)
        for c in range(channels)
    ]
    return sum(terms[1:], terms[0]).astype(x.dtype)
