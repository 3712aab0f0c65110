"""The table of variants, and how each scales the widths and depths of B0 (arXiv:1905.11946)."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """How a variant scales the B0 network, and the image size in pixels it was published with."""

    width: float
    depth: float
    image_size: int
    dropout: float
    lite: bool = False


VARIANTS = {
    "b0": Variant(1.0, 1.0, 224, 0.2),
    "b1": Variant(1.0, 1.1, 240, 0.2),
    "b2": Variant(1.1, 1.2, 260, 0.3),
    "b3": Variant(1.2, 1.4, 300, 0.3),
    "b4": Variant(1.4, 1.8, 380, 0.4),
    "b5": Variant(1.6, 2.2, 456, 0.4),
    "b6": Variant(1.8, 2.6, 528, 0.5),
    "b7": Variant(2.0, 3.1, 600, 0.5),
    "lite0": Variant(1.0, 1.0, 224, 0.2, lite=True),
    "lite1": Variant(1.0, 1.1, 240, 0.2, lite=True),
    "lite2": Variant(1.1, 1.2, 260, 0.3, lite=True),
    "lite3": Variant(1.2, 1.4, 280, 0.3, lite=True),
    "lite4": Variant(1.4, 1.8, 300, 0.3, lite=True),
}


@dataclass(frozen=True)
class Stage:
    """Inverted-residual blocks of one output width; the first block has the stride."""

    kernel_size: int
    blocks: int
    channels: int
    expansion: int
    stride: int


B0_STAGES = (
    Stage(kernel_size=3, blocks=1, channels=16, expansion=1, stride=1),
    Stage(kernel_size=3, blocks=2, channels=24, expansion=6, stride=2),
    Stage(kernel_size=5, blocks=2, channels=40, expansion=6, stride=2),
    Stage(kernel_size=3, blocks=3, channels=80, expansion=6, stride=2),
    Stage(kernel_size=5, blocks=3, channels=112, expansion=6, stride=1),
    Stage(kernel_size=5, blocks=4, channels=192, expansion=6, stride=2),
    Stage(kernel_size=3, blocks=1, channels=320, expansion=6, stride=1),
)
STEM_CHANNELS, TOP_CHANNELS, SQUEEZE_RATIO = 32, 1280, 0.25


def scaled_channels(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8 and never down by more than a tenth."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


def scaled_stages(variant: Variant) -> list[Stage]:
    """The seven stages of a variant, with their own widths and numbers of blocks."""
    last = len(B0_STAGES) - 1
    return [
        Stage(
            kernel_size=stage.kernel_size,
            blocks=stage.blocks
            if variant.lite and i in (0, last)
            else math.ceil(stage.blocks * variant.depth),
            channels=scaled_channels(stage.channels, variant.width),
            expansion=stage.expansion,
            stride=stage.stride,
        )
        for i, stage in enumerate(B0_STAGES)
    ]
