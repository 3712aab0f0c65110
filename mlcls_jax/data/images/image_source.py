"""Sources of the images of a split: their files, or the decoded cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import ImageFile, open_image
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.images.transforms import eval_image, train_image
from mlcls_jax.data.sampling import ImageRandom


class ImageSource(Protocol):
    """The images of a split by index, all at one size."""

    def train(self, index: int, random: ImageRandom, out: np.ndarray) -> None:
        """Writes an augmented training image.

        Args:
          index: the index of the image.
          random: its random numbers in this epoch.
          out: uint8 [size, size, channel] to write to.

        Raises:
          ImageError: the image cannot be read.
        """
        ...

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """Writes an image for evaluation.

        Args:
          index: the index of the image.
          out: uint8 [size, size, channel] to write to.

        Raises:
          ImageError: the image cannot be read.
        """
        ...


@dataclass(frozen=True)
class ImageFiles:
    """The source that decodes each image from its file.

    paths: the path of each image.
    size: the side of the images in pixels.
    augment: see `train_image`.
    pixels: see `open_image`.
    """

    paths: Sequence[str]
    size: int
    augment: Augment
    pixels: PixelFormat

    def open(self, index: int) -> ImageFile:
        """Reads the header of an image.

        Raises:
          ImageError: the image cannot be read.
        """
        return open_image(read_file(self.paths[index]), self.pixels)

    def train(self, index: int, random: ImageRandom, out: np.ndarray) -> None:
        """Implements `ImageSource`."""
        train_image(self.open(index), random, size=self.size, augment=self.augment, out=out)

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """Implements `ImageSource`."""
        eval_image(self.open(index), size=self.size, augment=self.augment, out=out)
