"""Depthwise convolution as Pallas kernels for GPUs, compiled by Triton.

Each program computes some columns of one output row and a block of channels, from values that it
loads tap by tap; neighbouring programs find them in the cache.  Positions outside of an image are
loaded from its border and replaced by zero.  Sums are float32.

They are chosen by the table of choice.py, and only where a measurement on that GPU says so.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mlcls_jax.models.conventions import Padding, pad_widths

COLUMNS = 16  # columns of a program, a power of 2
CHANNELS = 64  # most channels of a program, a power of 2
PROGRAMS = 256  # programs per block of channels over which the kernel gradient is spread


def forward(
    x,
    kernel,
    stride: int,
    padding: Padding,
    interpret: bool = False,
    affine: tuple[jax.Array, jax.Array] | None = None,
    activation: Callable[[jax.Array], jax.Array] = lambda values: values,
):
    """Convolves each channel with its own kernel; see `depthwise.depthwise_conv`.

    Args:
        x: [batch, height, width, channel].
        kernel: [k, k, 1, channel].
        stride: step along both image axes.
        padding: see `pad_widths`.
        interpret: whether the kernel is run by XLA, on any platform, as tests do.
        affine: float32 ([channel], [channel]): a factor and an offset of the sums.
        activation: elementwise function of the float32 sums, before they are written.
    """
    batch, height, width, channels = x.shape
    low = _low(x, kernel, stride, padding)
    shape = (batch, -(-height // stride), -(-width // stride), channels)
    body = partial(_forward_body, stride=stride, low=low, activation=activation)
    return _call(body, x, kernel, shape, interpret, affine or ())


def input_gradient(x, kernel, grad, stride: int, padding: Padding, interpret: bool = False):
    """Returns the gradient of x; arguments are those of `forward`, and its result's gradient."""
    body = partial(_input_gradient_body, stride=stride, low=_low(x, kernel, stride, padding))
    return _call(body, grad, kernel, x.shape, interpret).astype(x.dtype)


def kernel_gradient(x, kernel, grad, stride: int, padding: Padding, interpret: bool = False):
    """Returns the gradient of kernel; arguments are those of `input_gradient`."""
    from jax.experimental import pallas as pl  # slow to import, and rarely needed

    batch, rows, _, channels = grad.shape
    k, block = kernel.shape[0], _block(channels)
    programs = min(PROGRAMS, batch * rows)
    body = partial(
        _kernel_gradient_body, stride=stride, low=_low(x, kernel, stride, padding), k=k, block=block
    )
    partial_sums: Any = pl.pallas_call(
        body,
        jax.ShapeDtypeStruct((programs, k, k, channels), jnp.float32),
        grid=(programs, channels // block),
        **_options(interpret),
    )(x, grad)
    return partial_sums.sum(0)[:, :, None].astype(kernel.dtype)


def _low(x, kernel, stride: int, padding: Padding) -> tuple[int, int]:
    """Returns the zeros before the rows and before the columns of x."""
    rows, columns = (pad_widths(padding, size, kernel.shape[0], stride) for size in x.shape[1:3])
    return rows[0], columns[0]


def _block(channels: int) -> int:
    """Returns the largest power of 2 up to CHANNELS that divides the number of channels."""
    return min(CHANNELS, channels & -channels)


def _options(interpret: bool) -> dict[str, Any]:
    if interpret:
        return {"interpret": True}
    from jax.experimental.pallas import triton

    return {"compiler_params": triton.CompilerParams(num_warps=4, num_stages=2)}


def _call(body, image, kernel, shape: tuple[int, ...], interpret: bool, affine=()):
    """Runs a body over the rows, blocks of columns, and blocks of channels of its output."""
    from jax.experimental import pallas as pl

    batch, rows, columns, channels = shape
    block = _block(channels)
    call: Any = pl.pallas_call(
        partial(body, k=kernel.shape[0], block=block),
        jax.ShapeDtypeStruct(shape, image.dtype),
        grid=(batch * rows, -(-columns // COLUMNS), channels // block),
        **_options(interpret),
    )
    return call(image, kernel[:, :, 0], *affine)


def _place(out, block: int):
    """Returns the image, row, columns and channels of this program's output.

    Columns beyond the last are the last, which is then computed and written more than once.
    """
    from jax.experimental import pallas as pl

    rows, columns = out.shape[1:3]
    row, begin = pl.program_id(0), pl.program_id(1) * COLUMNS
    column = jnp.minimum(begin + jnp.arange(COLUMNS), columns - 1)
    return row // rows, row % rows, column, pl.ds(pl.program_id(2) * block, block)


def _load(array, image, row, columns, channels, inside):
    """Returns float32 [column, channel], with zeros where `inside` is false."""
    row = jnp.clip(row, 0, array.shape[1] - 1)
    columns = jnp.clip(columns, 0, array.shape[2] - 1)
    values = array[image, row, columns, channels].astype(jnp.float32)
    return jnp.where(inside[:, None], values, 0.0)


def _within(row, columns, array):
    return (row >= 0) & (row < array.shape[1]) & (columns >= 0) & (columns < array.shape[2])


def _forward_body(x, kernel, *rest, stride, low, k, block, activation):
    *affine, out = rest
    image, row, columns, channels = _place(out, block)
    total = jnp.zeros((COLUMNS, block), jnp.float32)
    for i in range(k):
        for j in range(k):
            r, c = row * stride + i - low[0], columns * stride + j - low[1]
            values = _load(x, image, r, c, channels, _within(r, c, x))
            total += values * kernel[i, j, channels].astype(jnp.float32)[None]
    if affine:
        factor, offset = (array[channels][None] for array in affine)
        total = total * factor + offset
    out[image, row, columns, channels] = activation(total).astype(out.dtype)


def _input_gradient_body(grad, kernel, out, *, stride, low, k, block):
    """Sums grad[(row + low - i) / stride] * kernel[i] over the taps for which stride divides."""
    image, row, columns, channels = _place(out, block)
    total = jnp.zeros((COLUMNS, block), jnp.float32)
    for i in range(k):
        for j in range(k):
            r, c = row + low[0] - i, columns + low[1] - j
            divides = (r % stride == 0) & (c % stride == 0)
            r, c = r // stride, c // stride
            values = _load(grad, image, r, c, channels, _within(r, c, grad) & divides)
            total += values * kernel[i, j, channels].astype(jnp.float32)[None]
    out[image, row, columns, channels] = total.astype(out.dtype)


def _kernel_gradient_body(x, grad, out, *, stride, low, k, block):
    """Sums grad times the window of x over every PROGRAMS-th row of the batch."""
    from jax.experimental import pallas as pl

    batch, rows, columns, _ = grad.shape
    first, programs = pl.program_id(0), out.shape[0]
    channels = pl.ds(pl.program_id(1) * block, block)
    blocks = -(-columns // COLUMNS)

    def add(index, totals):
        place, begin = first + index // blocks * programs, index % blocks * COLUMNS
        is_row = place < batch * rows
        image, row = jnp.minimum(place // rows, batch - 1), place % rows
        column = begin + jnp.arange(COLUMNS)
        inside = (column < columns) & is_row
        grads = _load(grad, image, row, column, channels, inside)
        added = []
        for i in range(k):
            for j in range(k):
                r, c = row * stride + i - low[0], column * stride + j - low[1]
                values = _load(x, image, r, c, channels, _within(r, c, x))
                added.append(totals[i * k + j] + (values * grads).sum(0))
        return tuple(added)

    zeros = tuple(jnp.zeros((block,), jnp.float32) for _ in range(k * k))
    turns = -(-batch * rows // programs) * blocks
    totals = jax.lax.fori_loop(0, turns, add, zeros)
    for i in range(k):
        for j in range(k):
            out[first, i, j, channels] = totals[i * k + j]
