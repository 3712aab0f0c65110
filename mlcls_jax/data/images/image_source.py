"""Where the images of a split come from: their files, or a cache of what is in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import ImageFile, open_image, read_file
from mlcls_jax.data.images.transforms import eval_image, train_image


class ImageSource(Protocol):
    """Images of a split by their index, at one size."""

    @property
    def at_once(self) -> int:
        """So many are worth a thread's while."""
        ...

    def train(self, index: int, rng: np.random.Generator, out: np.ndarray) -> None:
        """Writes an image as training sees it to uint8 [size, size, 3]; ImageError."""
        ...

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """Writes an image as evaluation sees it to uint8 [size, size, 3]; ImageError."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """The source that decodes each image anew; fields as in `train_image`, `open_image`."""

    paths: Sequence[str]
    size: int
    augment: Augment
    max_pixels: int
    at_once: int = 1

    def open(self, index: int) -> ImageFile:
        """An image of which the header has been read; ImageError."""
        return open_image(read_file(self.paths[index]), self.max_pixels)

    def train(self, index: int, rng: np.random.Generator, out: np.ndarray) -> None:
        """See Source."""
        train_image(self.open(index), rng, size=self.size, augment=self.augment, out=out)

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """See Source."""
        eval_image(self.open(index), size=self.size, augment=self.augment, out=out)
