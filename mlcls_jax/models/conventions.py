"""What code bases do differently in one and the same network, and how each wants its images.

A lineage is where weights were trained and first published.  The tensors of one variant have the
same shapes in all of them, so a wrong lineage fails nothing: it only gives other logits.

Sources, each read in the code: keras/src/applications/efficientnet.py and efficientnet_v2.py
(Keras 3.15), timm/models/efficientnet.py (1.0.31), torchvision/models/efficientnet.py (0.28),
efficientnet_pytorch/utils.py (0.7.1) and efficientnet_lite_pytorch (0.1.0).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Convention:
    """What a code base does differently, as fields of the modules.

    Attributes:
        padding: of all convolutions; see padding.py.
        epsilon: that batch normalisation adds to the variance.
        decay: share of a running statistic that stays at an update (PyTorch's momentum is one
            minus it).
        unbiased: whether the running variance is updated with the sum of squares over n - 1, as
            PyTorch does, instead of n.
    """

    padding: Padding = "same"
    epsilon: float = 1e-3
    decay: float = 0.99
    unbiased: bool = False

    def __post_init__(self):
        if not (0 < self.epsilon < 1 and 0 <= self.decay < 1):
            raise ValueError(
                f"an epsilon of {self.epsilon} and a decay of {self.decay} are none of a batch "
                "normalisation; both lie between 0 and 1"
            )


KERAS = Convention()
KERAS_V2 = Convention(decay=0.9)
TIMM_TF = Convention(decay=0.9, unbiased=True)
TIMM = Convention("symmetric", 1e-5, 0.9, unbiased=True)
TORCHVISION = TIMM  # B0 to B4
TORCHVISION_LARGE = Convention("symmetric", 1e-3, 0.99, unbiased=True)  # B5 to B7
TORCHVISION_V2 = Convention("symmetric", 1e-3, 0.9, unbiased=True)
LUKEMELAS = Convention(unbiased=True)  # EfficientNet-PyTorch, and its Lite fork


@dataclass(frozen=True)
class Normalization:
    """What images are normalised by, (x - mean) / std per channel, in units of 0 to 255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self):
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(
                f"images cannot be normalised by mean {self.mean} and std {self.std}: a number "
                "is not finite, or a std not positive"
            )

    def __str__(self) -> str:
        """ "mean / std", one number each where all channels have the same."""
        return " / ".join(
            " ".join(f"{value:.4g}" for value in (part[:1] if len(set(part)) == 1 else part))
            for part in (self.mean, self.std)
        )


def from_unit(mean: Iterable[float], std: Iterable[float]) -> Normalization:
    """The normalisation whose mean and std, of three channels, are given in units of 0 to 1."""
    red, green, blue = (255 * float(value) for value in mean)
    red_scale, green_scale, blue_scale = (255 * float(value) for value in std)
    return Normalization((red, green, blue), (red_scale, green_scale, blue_scale))


IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in units of 0 to 1
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET = from_unit(IMAGENET_MEAN, IMAGENET_STD)
HALF = from_unit((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # AdvProp, EfficientNetV2, Lite in timm
LITE = Normalization((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))  # Lite as first published
KERAS_V2_LARGE = Normalization((128.0, 128.0, 128.0), (128.0, 128.0, 128.0))  # V2 S, M and L


@dataclass(frozen=True)
class PretrainedConfig:
    """What has to be known of weights besides their tensors."""

    convention: Convention
    normalization: Normalization

    def __str__(self) -> str:
        """What a person should see, since a wrong one fails nothing."""
        return (
            f"{self.convention.padding} padding, epsilon {self.convention.epsilon:g}, "
            f"mean / std {self.normalization}"
        )


# Code base, pattern of the variants, and what its models of them are.
CODE_BASES = (
    ("keras", r"b\d", PretrainedConfig(KERAS, IMAGENET)),
    ("keras", r"v2b\d", PretrainedConfig(KERAS_V2, IMAGENET)),
    ("keras", r"v2[sml]", PretrainedConfig(KERAS_V2, KERAS_V2_LARGE)),
    ("timm tf", r"b\d|v2b\d", PretrainedConfig(TIMM_TF, IMAGENET)),
    ("timm tf", r"lite\d|v2[sml]", PretrainedConfig(TIMM_TF, HALF)),
    ("timm", r"b\d|lite\d|v2[sml]", PretrainedConfig(TIMM, IMAGENET)),
    ("torchvision", r"b[0-4]", PretrainedConfig(TORCHVISION, IMAGENET)),
    ("torchvision", r"b[5-7]", PretrainedConfig(TORCHVISION_LARGE, IMAGENET)),
    ("torchvision", r"v2[sm]", PretrainedConfig(TORCHVISION_V2, IMAGENET)),
    ("torchvision", r"v2l", PretrainedConfig(TORCHVISION_V2, HALF)),
    ("lukemelas", r"b\d", PretrainedConfig(LUKEMELAS, IMAGENET)),
    ("lukemelas", r"lite\d", PretrainedConfig(LUKEMELAS, LITE)),
)


def pretrained_config_of(code_base: str, variant: str) -> PretrainedConfig | None:
    """What a code base's own models of a variant are; None if it has no such variant."""
    for name, variants, pretrained_config in CODE_BASES:
        if name == code_base and re.fullmatch(variants, variant):
            return pretrained_config
    return None
