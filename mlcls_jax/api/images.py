"""Images as callers have them: paths, file contents, images of Pillow, and arrays."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import ImageFile, from_array, from_pillow, open_image
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.images.transforms import eval_image
from mlcls_jax.data.readers.unlabelled import images_in
from mlcls_jax.data.sampling import ImageRandom
from mlcls_jax.system.remote import is_remote

# A path, the contents of an image file, an open file, an image of Pillow, or an array uint8
# [height, width, 3] in RGB.
ImageLike = str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class GivenImages:
    """The source of images that a caller passes; see ImageSource.

    Attributes:
        images: of the caller.
        size: side of the result in pixels.
        augment: its eval_resize and interpolation are used.
        pixels: see `open_image`.
    """

    images: list[ImageLike]
    size: int
    augment: Augment
    pixels: PixelFormat

    def train(self, index: int, random: ImageRandom, out: np.ndarray) -> None:
        """Raises NotImplementedError, because these images are for prediction."""
        raise NotImplementedError

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """Implements `ImageSource`."""
        image = as_file(self.images[index], self.pixels)
        eval_image(image, size=self.size, augment=self.augment, out=out)


def as_file(image: ImageLike, pixels: PixelFormat) -> ImageFile:
    """Returns an image of any accepted kind, with its header read.

    Args:
        image: of the caller.
        pixels: see `open_image`.

    Raises:
        ImageError: it cannot be read, or is of another kind.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return open_image(bytes(image), pixels)
    if isinstance(image, str | Path):
        path = str(image) if is_remote(image) else str(Path(image).expanduser())
        return open_image(read_file(path), pixels)
    if isinstance(image, Image.Image):
        return from_pillow(image, pixels)
    if isinstance(image, np.ndarray):
        return from_array(image, pixels)
    if hasattr(image, "read"):  # an open file, such as io.BytesIO
        return open_image(image.read(), pixels)
    raise ImageError(
        f"it is a {type(image).__name__}; pass a path, the bytes of a file, an image of Pillow, or "
        "a uint8 array [height, width, 3]"
    )


def named_images(given: Any) -> tuple[list[Any], list[ImageLike]]:
    """Returns a name for each image, and the images.

    Args:
        given: one image, or an iterable of images; the path of a folder stands for all its images.

    Returns:
        The names: the path, or the position of an image that has none.

    Raises:
        ValueError: a folder has no images, or there are none at all.
    """
    if isinstance(given, pd.DataFrame):
        raise ValueError("images is a DataFrame; pass its column of paths")
    one = isinstance(given, str | Path | bytes | bytearray | memoryview | Image.Image)
    one = one or hasattr(given, "read")
    if isinstance(given, np.ndarray) and given.dtype.kind not in "OUS":
        one = given.ndim <= 3
    if not one and not isinstance(given, Iterable):
        raise ValueError(f"images: {type(given).__name__} is neither an image nor a list of them")
    images: list[Any] = []
    for item in [given] if one else given:
        path = Path(item).expanduser() if isinstance(item, str | Path) else None
        images += images_in(path) if path is not None and path.is_dir() else [item]
    if not images:
        raise ValueError("images: there are none")
    names = [
        str(item) if isinstance(item, str | Path) else index for index, item in enumerate(images)
    ]
    return names, images
