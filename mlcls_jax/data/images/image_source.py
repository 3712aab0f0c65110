"""Sources of the images of a split: their files, or the decoded cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import ImageFile, open_image, read_file
from mlcls_jax.data.images.transforms import eval_image, train_image


class ImageSource(Protocol):
    """The images of a split by index, all at one size."""

    @property
    def at_once(self) -> int:
        """The number of images per task of a thread."""
        ...

    def train(self, index: int, rng: np.random.Generator, out: np.ndarray) -> None:
        """Writes an augmented training image.

        Args:
          index: the index of the image.
          rng: its random numbers.
          out: uint8 [size, size, 3] to write to.

        Raises:
          ImageError: the image cannot be read.
        """
        ...

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """Writes an image for evaluation.

        Args:
          index: the index of the image.
          out: uint8 [size, size, 3] to write to.

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
    max_pixels: see `open_image`.
    at_once: see ImageSource.
    """

    paths: Sequence[str]
    size: int
    augment: Augment
    max_pixels: int
    at_once: int = 1

    def open(self, index: int) -> ImageFile:
        """Reads the header of an image.

        Raises:
          ImageError: the image cannot be read.
        """
        return open_image(read_file(self.paths[index]), self.max_pixels)

    def train(self, index: int, rng: np.random.Generator, out: np.ndarray) -> None:
        """Implements `ImageSource`."""
        train_image(self.open(index), rng, size=self.size, augment=self.augment, out=out)

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """Implements `ImageSource`."""
        eval_image(self.open(index), size=self.size, augment=self.augment, out=out)
