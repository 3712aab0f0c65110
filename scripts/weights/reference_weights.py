"""The interface of a reference implementation, and its random weights."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

NUM_CLASSES = 7
CALIBRATION_SHAPE = (4, 65, 97, 3)
# Standard deviations of a convolution's outputs. The smallest variance is far below the epsilon of
# one code base, 1e-3, and above that of another, 1e-5.
OUTPUT_SCALE = (0.01, 2.0)


class Reference(ABC):
    """A network of another code base, with random weights."""

    @abstractmethod
    def save(self, folder: Path) -> dict[str, Path]:
        """Writes the weights into a new folder, and returns {layout: path}."""

    @abstractmethod
    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns logits, float32 [batch, class], of uint8 [batch, height, width, 3]."""

    @abstractmethod
    def train_forward(self, images: np.ndarray) -> None:
        """Updates the running statistics by one pass in training mode, without any dropout."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """Returns pooled features, float32 [batch, channel], if there is a layout without head."""
        raise NotImplementedError(f"{type(self).__name__} saves no file without a head")


def random_images(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns uint8 [batch, height, width, 3] with noise and flat squares."""
    _, height, width, _ = shape
    fine = rng.integers(0, 256, shape, dtype=np.uint8)
    coarse = fine[:, : height // 8 + 1, : width // 8 + 1].repeat(8, 1).repeat(8, 2)
    return np.where(rng.random(shape) < 0.7, coarse[:, :height, :width], fine)


def random_kernel(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a kernel [out, in, ...]; the filters of a convolution have different scales."""
    value = rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape)
    if len(shape) == 4:
        low, high = np.log(OUTPUT_SCALE)
        value *= np.exp(rng.uniform(low, high, (shape[0], 1, 1, 1)))
    return value.astype(np.float32)


def random_scale(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the scale of a normalisation."""
    return rng.uniform(0.5, 2.0, shape).astype(np.float32)


def random_bias(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the bias of any layer."""
    return rng.normal(0.0, 0.4, shape).astype(np.float32)


def disturbed(
    rng: np.random.Generator, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns running statistics that are near those of a batch, but clearly different.

    If they did not match the activations, the activations would grow from layer to layer until
    float32 rounding alone exceeded the tolerance.
    """
    mean = mean + 0.3 * np.sqrt(variance) * rng.normal(size=mean.shape)
    variance = variance * rng.uniform(0.5, 2.0, variance.shape)
    return mean.astype(np.float32), variance.astype(np.float32)
