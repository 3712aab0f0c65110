"""What the images of a run become: their number of channels, and how deep values are reduced."""

from dataclasses import dataclass

from mlcls_jax.config import Data

DEEPEST = 16  # bits; of images whose depth the config leaves open, the upper 8 are kept


@dataclass(frozen=True)
class PixelFormat:
    """How an image is decoded.

    Attributes:
        max_pixels: width times height; larger images are refused before memory is allocated.
        channels: of the result; see `check_channels`.
        bits: in use by integers with more than 8 bits per channel, of which the upper 8 are kept.
    """

    max_pixels: int = Data().max_pixels
    channels: int = 3
    bits: int = DEEPEST


def pixel_format(data: Data, channels: int) -> PixelFormat:
    """Returns how the images of a run are decoded.

    Args:
        data: its max_pixels and bit_depth are used; "auto" stands for 16 bits here, because
            `find_bit_depth` has replaced it if the data set has deeper images.
        channels: the field model.in_channels.
    """
    bits = DEEPEST if data.bit_depth == "auto" else int(data.bit_depth)
    return PixelFormat(data.max_pixels, channels, bits)
