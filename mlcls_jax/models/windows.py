"""Views of padded images: what convolutions are made of where XLA's own is slow."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from mlcls_jax.models.padding import Padding, pad_widths


def image_padding(x, k: int, stride: int, padding: Padding) -> list[tuple[int, int]]:
    """Zeros before and after the rows, and the columns, of x [batch, height, width, channel]."""
    return [pad_widths(padding, size, k, stride) for size in x.shape[1:3]]


def pad(x, rows: tuple[int, int], columns: tuple[int, int]):
    """Zero-pads, or crops where a width is negative, the two image axes."""
    none = (0, 0, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), [none, (*rows, 0), (*columns, 0), none])


def window(x, row: int, column: int, height: int, width: int, stride: int):
    """The [height, width] view of x that starts at (row, column) and steps by stride."""
    batch, _, _, channels = x.shape
    end = (batch, row + (height - 1) * stride + 1, column + (width - 1) * stride + 1, channels)
    return lax.slice(x, (0, row, column, 0), end, (1, stride, stride, 1))


def taps(x, k: int, stride: int, padding: Padding) -> list[tuple[int, int, Any]]:
    """(i, j, view) for the k*k positions of a kernel: the pixels of x that kernel[i, j] meets."""
    height, width = (-(-size // stride) for size in x.shape[1:3])
    padded = pad(x, *image_padding(x, k, stride, padding))
    return [(i, j, window(padded, i, j, height, width, stride)) for i in range(k) for j in range(k)]
