"""Conventions in which code bases differ for the same network, and how each normalises its images.

A convention is the padding, epsilon and momentum of the code base in which weights were trained.
The tensors of a variant have the same shapes under every convention, so the wrong one raises no
error: it only gives different logits.

Momentum has two opposite meanings.  In Keras and Flax it is the decay: the share of a running
statistic that an update keeps.  In PyTorch it is 1 - decay.  The field here is called `decay`.

Sources, read in the code: keras/src/applications/efficientnet.py and efficientnet_v2.py
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
    """Returns how many zeros pad an image axis before and after.

    With either padding, the convolution has ceil(size / stride) output positions.

    Args:
        padding: "same" is TensorFlow's: as few zeros as needed, an odd one at the end, so they
            depend on the size.  "symmetric" is PyTorch's: k // 2 on both sides, for odd k.
        size: length of the axis, in pixels.
        k: length of the kernel, in pixels.
        stride: step of the kernel, in pixels.
    """
    if padding == "symmetric":
        return k // 2, k // 2
    total = max((-(-size // stride) - 1) * stride + k - size, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class Convention:
    """Padding of the convolutions, and epsilon and momentum of the batch normalisations.

    Attributes:
        padding: padding of all convolutions; see `pad_widths`.
        epsilon: what batch normalisation adds to the variance.
        decay: share of a running statistic that an update keeps: the momentum of Keras and Flax,
            and 1 - momentum of PyTorch.
        unbiased: whether the running variance is updated with the unbiased estimate (n - 1), as
            PyTorch does, instead of the biased one (n).

    Raises:
        ValueError: epsilon or decay is out of range.
    """

    padding: Padding = "same"
    epsilon: float = 1e-3
    decay: float = 0.99
    unbiased: bool = False

    def __post_init__(self):
        if not (0 < self.epsilon < 1 and 0 <= self.decay < 1):
            raise ValueError(
                f"a batch normalisation cannot have an epsilon of {self.epsilon} and a decay of "
                f"{self.decay}; both must lie between 0 and 1"
            )


KERAS = Convention()  # keras.applications, B0 to B7
KERAS_V2 = Convention(decay=0.9)  # keras.applications, V2
TIMM_TF = Convention(decay=0.9, unbiased=True)  # timm's tf_efficientnet*: TensorFlow's padding
TIMM = Convention("symmetric", 1e-5, 0.9, unbiased=True)  # timm's efficientnet*
TORCHVISION = TIMM  # B0 to B4
TORCHVISION_LARGE = Convention("symmetric", 1e-3, 0.99, unbiased=True)  # B5 to B7
TORCHVISION_V2 = Convention("symmetric", 1e-3, 0.9, unbiased=True)
LUKEMELAS = Convention(unbiased=True)  # EfficientNet-PyTorch and its Lite fork


@dataclass(frozen=True)
class Normalization:
    """Normalisation of images: (x - mean) / std per channel, for x from 0 to 255.

    Raises:
        ValueError: a number is not finite, or a std is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"mean {self.mean} and std {self.std} must have one number for each channel"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(
                f"images cannot be normalised by mean {self.mean} and std {self.std}: all numbers "
                "must be finite and every std must be positive"
            )

    def for_channels(self, channels: int) -> "Normalization":
        """Returns the normalisation of images with another number of channels.

        It fits what timm does to the kernel of the stem: one channel gets the averages, and more
        channels repeat those of RGB.

        Args:
            channels: of the images.

        Raises:
            ValueError: this is not the normalisation of RGB images.

        >>> Normalization((1.0, 2.0, 3.0), (1.0, 1.0, 1.0)).for_channels(4).mean
        (1.0, 2.0, 3.0, 1.0)
        """
        if channels == len(self.mean):
            return self
        if len(self.mean) != 3:
            raise ValueError(
                f"weights for {len(self.mean)} channels cannot take images with {channels}; set "
                f"model.in_channels={len(self.mean)}"
            )
        if channels == 1:
            return Normalization((math.fsum(self.mean) / 3,), (math.fsum(self.std) / 3,))
        chosen = [channel % 3 for channel in range(channels)]
        mean, std = (tuple(part[i] for i in chosen) for part in (self.mean, self.std))
        return Normalization(mean, std)

    def __str__(self) -> str:
        """Returns "mean / std", with one number for each that is the same in all channels."""
        return " / ".join(
            " ".join(f"{value:.4g}" for value in (part[:1] if len(set(part)) == 1 else part))
            for part in (self.mean, self.std)
        )


def from_unit(mean: Iterable[float], std: Iterable[float]) -> Normalization:
    """Returns the normalisation for a mean and std per channel in units of 0 to 1."""
    scaled = (tuple(255 * float(value) for value in part) for part in (mean, std))
    return Normalization(*scaled)


IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, in units of 0 to 1
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET = from_unit(IMAGENET_MEAN, IMAGENET_STD)
HALF = from_unit((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # AdvProp; in timm also V2 and Lite
LITE = Normalization((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))  # Lite as first published
KERAS_V2_LARGE = Normalization((128.0, 128.0, 128.0), (128.0, 128.0, 128.0))  # V2 S, M and L


@dataclass(frozen=True)
class PretrainedConfig:
    """Convention and normalisation of pretrained weights, which their tensors do not show."""

    convention: Convention
    normalization: Normalization

    def for_channels(self, channels: int) -> "PretrainedConfig":
        """Returns it for images with a number of channels; see `Normalization`."""
        return PretrainedConfig(self.convention, self.normalization.for_channels(channels))

    def __str__(self) -> str:
        """Returns it in words for the terminal, because a wrong one raises no error."""
        return (
            f"{self.convention.padding} padding, epsilon {self.convention.epsilon:g}, "
            f"mean / std {self.normalization}"
        )


# (code base, regular expression of variants, pretrained config of its models of these variants)
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
    """Returns the pretrained config of a code base's model of a variant.

    Args:
        code_base: a first column of CODE_BASES.
        variant: a key of VARIANTS.

    Returns:
        None if the code base has no model of this variant.
    """
    for name, variants, pretrained_config in CODE_BASES:
        if name == code_base and re.fullmatch(variants, variant):
            return pretrained_config
    return None
