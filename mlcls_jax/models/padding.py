"""The two conventions of padding before a convolution."""

from typing import Literal

Padding = Literal["same", "symmetric"]


def pad_widths(padding: Padding, size: int, k: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an image axis; either way ceil(size / stride) positions come out.

    Args:
        padding: "same" is TensorFlow's: as few zeros as needed, an odd one at the end, so that
            they depend on the size.  "symmetric" is PyTorch's: k // 2 on both sides, whatever the
            size; for odd k.
        size: of the axis, in pixels.
        k: of the kernel.
        stride: of the kernel.
    """
    if padding == "symmetric":
        return k // 2, k // 2
    total = max((-(-size // stride) - 1) * stride + k - size, 0)
    return total // 2, total - total // 2
