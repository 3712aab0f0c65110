"""Table of variants: stages of blocks, how each variant scales them, and queries of an ML-Decoder.

Sources: Tan and Le, arXiv:1905.11946 (B0 to B7) and arXiv:2104.00298 (V2, named "v2…" here).  The
Lite variants, and image sizes and dropout of V2, are from the reference implementation
(`effnetv2_configs.py` of google/automl/efficientnetv2).
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Stage:
    """Blocks with the same output width.

    Attributes:
        kernel_size: height and width of the kernels.
        blocks: number of blocks.
        channels: output width of each block.
        expansion: hidden width of a block divided by its input width.
        stride: stride of the first block; the others have stride 1.
        fused: whether one full k*k convolution replaces the 1x1 expansion and the depthwise
            convolution.
        squeeze: width of squeeze-excite divided by the block's input width; 0 means none.
    """

    kernel_size: int
    blocks: int
    channels: int
    expansion: int
    stride: int
    fused: bool = False
    squeeze: float = 0.25


def _fused(blocks: int, channels: int, expansion: int, stride: int) -> Stage:
    return Stage(3, blocks, channels, expansion, stride, fused=True, squeeze=0)


B0_STAGES = (
    Stage(kernel_size=3, blocks=1, channels=16, expansion=1, stride=1),
    Stage(kernel_size=3, blocks=2, channels=24, expansion=6, stride=2),
    Stage(kernel_size=5, blocks=2, channels=40, expansion=6, stride=2),
    Stage(kernel_size=3, blocks=3, channels=80, expansion=6, stride=2),
    Stage(kernel_size=5, blocks=3, channels=112, expansion=6, stride=1),
    Stage(kernel_size=5, blocks=4, channels=192, expansion=6, stride=2),
    Stage(kernel_size=3, blocks=1, channels=320, expansion=6, stride=1),
)
V2B0_STAGES = (
    _fused(blocks=1, channels=16, expansion=1, stride=1),
    _fused(blocks=2, channels=32, expansion=4, stride=2),
    _fused(blocks=2, channels=48, expansion=4, stride=2),
    Stage(kernel_size=3, blocks=3, channels=96, expansion=4, stride=2),
    Stage(kernel_size=3, blocks=5, channels=112, expansion=6, stride=1),
    Stage(kernel_size=3, blocks=8, channels=192, expansion=6, stride=2),
)
V2S_STAGES = (
    _fused(blocks=2, channels=24, expansion=1, stride=1),
    _fused(blocks=4, channels=48, expansion=4, stride=2),
    _fused(blocks=4, channels=64, expansion=4, stride=2),
    Stage(kernel_size=3, blocks=6, channels=128, expansion=4, stride=2),
    Stage(kernel_size=3, blocks=9, channels=160, expansion=6, stride=1),
    Stage(kernel_size=3, blocks=15, channels=256, expansion=6, stride=2),
)
V2M_STAGES = (
    _fused(blocks=3, channels=24, expansion=1, stride=1),
    _fused(blocks=5, channels=48, expansion=4, stride=2),
    _fused(blocks=5, channels=80, expansion=4, stride=2),
    Stage(kernel_size=3, blocks=7, channels=160, expansion=4, stride=2),
    Stage(kernel_size=3, blocks=14, channels=176, expansion=6, stride=1),
    Stage(kernel_size=3, blocks=18, channels=304, expansion=6, stride=2),
    Stage(kernel_size=3, blocks=5, channels=512, expansion=6, stride=1),
)
V2L_STAGES = (
    _fused(blocks=4, channels=32, expansion=1, stride=1),
    _fused(blocks=7, channels=64, expansion=4, stride=2),
    _fused(blocks=7, channels=96, expansion=4, stride=2),
    Stage(kernel_size=3, blocks=10, channels=192, expansion=4, stride=2),
    Stage(kernel_size=3, blocks=19, channels=224, expansion=6, stride=1),
    Stage(kernel_size=3, blocks=25, channels=384, expansion=6, stride=2),
    Stage(kernel_size=3, blocks=7, channels=640, expansion=6, stride=1),
)
TOP_CHANNELS = 1280
STRIDE = 32  # image size divided by that of the last feature map (rounded up), in every variant
HEADS = 8  # attention heads of an ML-Decoder, arXiv:2111.12933


@dataclass(frozen=True)
class Variant:
    """Scaling, image size and dropout of a variant.

    Attributes:
        width: factor of the channels.
        depth: factor of the blocks per stage.
        image_size: side of the published images, in pixels.
        dropout: rate before the head.
        lite: whether the variant uses ReLU6, has no squeeze-excite, and does not scale the stem,
            the top, and the depth of its first and last stage.
        stages: stages before scaling.
        stem_channels: width of the stem before scaling.
        keep: minimum share of the exact width that rounding may leave; 0 (no minimum) in V2.
    """

    width: float
    depth: float
    image_size: int
    dropout: float
    lite: bool = False
    stages: tuple[Stage, ...] = B0_STAGES
    stem_channels: int = 32
    keep: float = 0.9

    @property
    def v2(self) -> bool:
        """Whether the variant begins with fused blocks."""
        return self.stages[0].fused


def _v2_base(width: float, depth: float, image_size: int, dropout: float) -> Variant:
    return Variant(width, depth, image_size, dropout, stages=V2B0_STAGES, keep=0)


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
    "v2b0": _v2_base(1.0, 1.0, 224, 0.2),
    "v2b1": _v2_base(1.0, 1.1, 240, 0.2),
    "v2b2": _v2_base(1.1, 1.2, 260, 0.3),
    "v2b3": _v2_base(1.2, 1.4, 300, 0.3),
    "v2s": Variant(1.0, 1.0, 384, 0.2, stages=V2S_STAGES, stem_channels=24),
    "v2m": Variant(1.0, 1.0, 480, 0.3, stages=V2M_STAGES, stem_channels=24),
    "v2l": Variant(1.0, 1.0, 480, 0.4, stages=V2L_STAGES, stem_channels=32),
}


def scaled_channels(channels: int, variant: Variant) -> int:
    """Returns channels times `width`, rounded to a multiple of 8 but not below `keep` of it."""
    exact = channels * variant.width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < variant.keep * exact else rounded


def end_channels(channels: int, variant: Variant) -> int:
    """Returns the width of the stem or the top, which Lite variants do not scale."""
    return channels if variant.lite else scaled_channels(channels, variant)


@cache
def scaled_stages(variant: Variant) -> tuple[Stage, ...]:
    """Returns the stages of a variant with their scaled widths, depths and squeeze-excite."""
    last = len(variant.stages) - 1
    return tuple(
        dataclasses.replace(
            stage,
            blocks=stage.blocks
            if variant.lite and i in (0, last)
            else math.ceil(stage.blocks * variant.depth),
            channels=scaled_channels(stage.channels, variant),
            squeeze=0 if variant.lite else stage.squeeze,
        )
        for i, stage in enumerate(variant.stages)
    )


def backbone_values(variant: Variant) -> int:
    """Returns the number of values in the backbone, with the statistics of its normalisations."""
    top, before = end_channels(TOP_CHANNELS, variant), end_channels(variant.stem_channels, variant)
    count = _convolved(3, 3, before)
    for stage in scaled_stages(variant):
        for _ in range(stage.blocks):
            count += _block_values(stage, before)
            before = stage.channels
    return count + _convolved(1, before, top)


def _block_values(stage: Stage, before: int) -> int:
    hidden, squeezed = before * stage.expansion, int(before * stage.squeeze)
    if stage.fused and stage.expansion == 1:
        return _convolved(stage.kernel_size, before, stage.channels)
    if stage.fused:
        count = _convolved(stage.kernel_size, before, hidden)
    else:
        count = _convolved(1, before, hidden) if stage.expansion > 1 else 0
        count += _convolved(stage.kernel_size, 1, hidden)  # each channel by itself
    squeeze_excite = 2 * hidden * squeezed + squeezed + hidden if squeezed else 0
    return count + squeeze_excite + _convolved(1, hidden, stage.channels)


def _convolved(kernel_size: int, before: int, after: int) -> int:
    """Returns the values of a convolution and its normalisation: scale, bias, mean and variance."""
    return kernel_size**2 * before * after + 4 * after


def query_count(num_classes: int, groups: int) -> int:
    """Returns the number of queries of an ML-Decoder; each but the last has equally many classes.

    The authors' implementation always computes `groups` queries, although the last ones may have no
    class: with 80 classes in 25 groups of 4, five have none.  Queries do not interact, so the
    logits are the same without these.

    Args:
        num_classes: number of classes.
        groups: at most so many groups of classes; 0 means one for each class.
    """
    return math.ceil(num_classes / classes_per_query(num_classes, groups))


def classes_per_query(num_classes: int, groups: int) -> int:
    """Returns how many classes a query has, but for the last one; see `query_count`."""
    return math.ceil(num_classes / min(groups or num_classes, num_classes))
