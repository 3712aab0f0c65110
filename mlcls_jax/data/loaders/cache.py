"""The decoded cache (config field data.cache): how images are stored and read.

Images are stored as squares at their final size, before a symmetry is drawn. For random crops the
whole image is stored with a short side of 8/7 of the size, like the 256 pixels for crops of 224
that are usual for ImageNet. An average crop is then as sharp as from the file; the smallest crops
are enlarged.
"""

import dataclasses
import hashlib
import inspect
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import cv2
import numpy as np
import PIL

from mlcls_jax.config import Augment
from mlcls_jax.data.images import channels, decoding, deep_pixels, dicom, header, transforms
from mlcls_jax.data.images.decoding import ImageFile
from mlcls_jax.data.images.image_source import ImageFiles
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.transforms import (
    center_crop_share,
    resize,
    shrink,
    square,
    train_image,
)
from mlcls_jax.data.loaders.cache_store import InMemory, OnDisk
from mlcls_jax.data.sampling import ImageRandom

_FORMAT = "decoded images of mlcls_jax, format 1"
_CODE = (channels, decoding, deep_pixels, dicom, header, transforms)  # decides the pixels
_SHORT_SIDE = 8 / 7  # of whole images, relative to the size of the batches' images


@dataclass(frozen=True)
class Form:
    """How an image is stored.

    resize: "squash", "center_crop" and "letterbox": a square of `side` pixels; "random_crop": the
        whole image, with a short side of at most `side` pixels.
    side: in pixels.
    interpolation: the interpolation of squares.
    pixels: see `open_image`.
    """

    resize: str
    side: int
    interpolation: str
    pixels: PixelFormat

    @property
    def is_whole(self) -> bool:
        """Whether whole images are stored."""
        return self.resize == "random_crop"

    @classmethod
    def of_split(cls, split: str, augment: Augment, size: int, pixels: PixelFormat) -> "Form":
        """Returns the form for a split.

        Args:
          split: "train", or another split, which is only evaluated.
          augment: the augmentation of the run.
          size: side of the batches' images in pixels.
          pixels: see `open_image`.
        """
        if split == "train" and augment.train_resize == "random_crop":
            return cls("random_crop", round(size * _SHORT_SIDE), "area", pixels)
        resize = augment.train_resize if split == "train" else augment.eval_resize
        return cls(resize, size, augment.interpolation, pixels)

    def make(self, image: ImageFile) -> tuple[np.ndarray, int, int]:
        """Returns the stored pixels, and the height and width of the image they represent.

        Args:
          image: the image, with its header read.

        Returns:
          uint8 [height', width', channel], height, width.

        Raises:
          ImageError: the image is damaged.
        """
        if self.is_whole:
            return shrink(image, self.side), image.height, image.width
        return square(image, self.side, self.resize, self.interpolation), self.side, self.side


class Cache:
    """An ImageSource of decoded images; images that are not stored are read from their files."""

    def __init__(self, store: InMemory | OnDisk, files: ImageFiles):
        """Creates the source.

        Args:
          store: the decoded images, in the form of their split.
          files: the source of the same images as files.
        """
        self._store, self._files, augment = store, files, files.augment
        if augment.train_resize != "random_crop":  # the stored square is the whole image
            augment = dataclasses.replace(augment, train_resize="squash")
        self._augment = augment

    def train(self, index: int, random: ImageRandom, out: np.ndarray) -> None:
        """Implements `ImageSource`."""
        kept = self._store.pixels(index)
        if kept is None:
            self._files.train(index, random, out)
            return
        row = self._store.rows[index]
        image = ImageFile(int(row["whole_height"]), int(row["whole_width"]), lambda *_: kept)
        train_image(image, random, size=self._files.size, augment=self._augment, out=out)

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """Implements `ImageSource`.

        A whole image stored for random crops is squashed: the features of a frozen backbone, which
        need it, are computed from whole images.
        """
        kept = self._store.pixels(index)
        if kept is None:
            self._files.evaluate(index, out)
        else:
            resize(kept, self._files.size, self._files.augment.interpolation, out)


def file_name(split: str, form: Form, paths: Sequence[str]) -> str:
    """Returns the cache file name of a split, which depends on the order of the images.

    Args:
      split: "train" or another split.
      form: how the images are stored.
      paths: the paths of the images.
    """
    content = [
        dataclasses.asdict(form),
        [path if "://" in path else os.path.abspath(path) for path in paths],
    ]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return f"{split}-{form.resize}-{form.side}px-{digest}.images"


def make_header(images: int, channels: int) -> dict[str, Any]:
    """Returns all that determines the pixels apart from the files: libraries and our own code.

    Args:
      images: the number of images.
      channels: of each image.
    """
    code = "".join(map(inspect.getsource, (*_CODE, Form, center_crop_share)))
    return {
        "format": _FORMAT,
        "images": images,
        "channels": channels,
        "pillow": PIL.__version__,
        "simplejpeg": metadata.version("simplejpeg"),
        "opencv": cv2.__version__,
        "machine": platform.machine(),
        "code": hashlib.sha256(code.encode()).hexdigest(),
    }
