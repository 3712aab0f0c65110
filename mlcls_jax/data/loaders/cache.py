"""The decoded cache (config field data.cache): what is kept of an image, and how it is used.

Images that training sees squashed, and those of evaluation, are kept as they come out, before
they are flipped.  For random crops the whole image is kept, with a short side of 8/7 of the
size: the 256 pixels for 224 of the ImageNet tradition.  Crops from it are as sharp as the average
one needs; the smallest are enlarged.
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
from mlcls_jax.data.images import decoding, transforms
from mlcls_jax.data.images.decoding import ImageFile
from mlcls_jax.data.images.image_source import ImageFiles
from mlcls_jax.data.images.transforms import (
    center_crop_share,
    resize,
    shrink,
    square,
    train_image,
)
from mlcls_jax.data.loaders.cache_store import InMemory, OnDisk

_FORMAT = "decoded images of mlcls_jax, format 1"
_TRADITION = 8 / 7
_AT_ONCE = 8  # images: less work than this costs a thread more than it does


@dataclass(frozen=True)
class Form:
    """What is kept of an image.

    resize: "squash" and "center_crop": a square of `side`; "random_crop": the whole image, with
        a short side of `side` at most.
    interpolation: of the squares.
    max_pixels: see `open_image`; it decides which images there are.
    """

    resize: str
    side: int
    interpolation: str
    max_pixels: int

    @property
    def is_whole(self) -> bool:
        """Whether the image is kept as a whole."""
        return self.resize == "random_crop"

    @classmethod
    def of_split(cls, split: str, augment: Augment, size: int, max_pixels: int) -> "Form":
        """That of "train", or of another split, which is only evaluated."""
        if split == "train" and augment.train_resize == "random_crop":
            return cls("random_crop", round(size * _TRADITION), "area", max_pixels)
        resize = augment.train_resize if split == "train" else augment.eval_resize
        return cls(resize, size, augment.interpolation, max_pixels)

    def make(self, image: ImageFile) -> tuple[np.ndarray, int, int]:
        """What is kept: uint8 [height, width, 3]; height and width of what it stands for."""
        if self.is_whole:
            return shrink(image, self.side), image.height, image.width
        return square(image, self.side, self.resize, self.interpolation), self.side, self.side


class Cache:
    """A source whose images are decoded already; those that are not come from their files."""

    at_once = _AT_ONCE

    def __init__(self, store: InMemory | OnDisk, files: ImageFiles):
        """store: with the images of the files, in the form of their split."""
        self._store, self._files = store, files

    def train(self, index: int, rng: np.random.Generator, out: np.ndarray) -> None:
        """See Source."""
        kept = self._store.pixels(index)
        if kept is None:
            self._files.train(index, rng, out)
            return
        row = self._store.rows[index]
        image = ImageFile(int(row["whole_height"]), int(row["whole_width"]), lambda *_: kept)
        train_image(image, rng, size=self._files.size, augment=self._files.augment, out=out)

    def evaluate(self, index: int, out: np.ndarray) -> None:
        """See Source.  One that is kept whole for random crops is squashed: who asks for it are the
        features of a frozen backbone, which are of whole images."""
        kept = self._store.pixels(index)
        if kept is None:
            self._files.evaluate(index, out)
        else:
            resize(kept, self._files.size, self._files.augment.interpolation, out)


def file_name(split: str, form: Form, paths: Sequence[str]) -> str:
    """Of the split's file; the same images in another order are others."""
    what = [
        dataclasses.asdict(form),
        [path if "://" in path else os.path.abspath(path) for path in paths],
    ]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return f"{split}-{form.resize}-{form.side}px-{name}.images"


def make_header(images: int) -> dict[str, Any]:
    """What decides the pixels beside the files: libraries, and this package's own code."""
    code = "".join(map(inspect.getsource, (decoding, transforms, Form, center_crop_share)))
    return {
        "format": _FORMAT,
        "images": images,
        "pillow": PIL.__version__,
        "simplejpeg": metadata.version("simplejpeg"),
        "opencv": cv2.__version__,
        "machine": platform.machine(),
        "code": hashlib.sha256(code.encode()).hexdigest(),
    }
