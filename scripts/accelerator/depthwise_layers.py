"""The distinct depthwise layers of a network."""

from dataclasses import dataclass
from typing import Any

from mlcls_jax.models.variants import VARIANTS, end_channels, scaled_stages


@dataclass(frozen=True)
class Layer:
    """A depthwise convolution; side is that of its square input in pixels."""

    batch: int
    side: int
    channels: int
    kernel_size: int
    stride: int

    def __str__(self) -> str:
        return (
            f"{self.batch}x{self.side}x{self.side}x{self.channels} "
            f"k{self.kernel_size} s{self.stride}"
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the input, the kernel and the result."""
        after = -(-self.side // self.stride)
        return (
            (self.batch, self.side, self.side, self.channels),
            (self.kernel_size, self.kernel_size, 1, self.channels),
            (self.batch, after, after, self.channels),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What a rule of the table of kernels may ask for."""
        names = ("side", "channels", "kernel_size", "stride")
        return {name: getattr(self, name) for name in names}


def layers_of(variant: str, size: int, batch: int) -> list[Layer]:
    """Returns the distinct depthwise layers of a network, in order.

    Args:
        variant: name of the network.
        size: side of its images in pixels.
        batch: images per step.
    """
    settings = VARIANTS[variant]
    side, before = -(-size // 2), end_channels(settings.stem_channels, settings)
    found: dict[Layer, None] = {}
    for stage in scaled_stages(settings):
        for block in range(stage.blocks):
            stride = stage.stride if block == 0 else 1
            if not stage.fused:
                hidden = before * stage.expansion
                found[Layer(batch, side, hidden, stage.kernel_size, stride)] = None
            side, before = -(-side // stride), stage.channels
    return list(found)
