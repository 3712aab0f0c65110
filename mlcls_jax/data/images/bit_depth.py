"""Finds how many bits the deep images of a data set use (data.bit_depth=auto)."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from mlcls_jax.config import Data
from mlcls_jax.data.images.deep_pixels import least_depth, png_values, tiff_values
from mlcls_jax.data.images.dicom import dicom_values
from mlcls_jax.data.images.header import (
    OPENCV,
    PYDICOM,
    TIFFFILE,
    ImageHeader,
    open_with_pillow,
    read_header,
)
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.label_table import LabelTable

MOST = 500  # images that are looked at, evenly spread over the data set
_ALWAYS_8 = {".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".heic", ".heif", ".avif"}


@dataclass(frozen=True)
class BitDepth:
    """What the deep images of a data set use.

    Attributes:
        bits: one of DEPTHS.
        largest: the largest value.
        deep: number of images with integers of more than 8 bits.
        seen: number of images that were looked at.
        candidates: number of images that may be deep, by their names.
    """

    bits: int
    largest: int
    deep: int
    seen: int
    candidates: int

    def __str__(self) -> str:
        """Returns one line for the terminal."""
        among = f"{self.seen}" if self.seen == self.candidates else f"a sample of {self.seen:,}"
        deep = "one image" if self.deep == 1 else f"the {self.deep} images"
        return (
            f"data.bit_depth={self.bits}: the largest value is {self.largest:,} in {deep} "
            f"with more than 8 bits per channel, among {among} of {self.candidates:,} PNG, TIFF "
            "and DICOM files"
        )


def with_bit_depth(
    data: Data,
    tables: Iterable[LabelTable],
    workers: int,
    channels: int,
    tell: Callable[[str], None],
) -> Data:
    """Returns the section of a config with the bits that deep images use, if it leaves them open.

    Args:
        data: it is not changed.
        tables: of all images of a data set.
        workers: threads that read.
        channels: the field model.in_channels.
        tell: called with a line that says what was found.
    """
    if data.bit_depth != "auto":
        return data
    paths = [path for table in tables for path in table.paths]
    found = find_bit_depth(paths, workers, channels)
    if found is None:
        return data
    tell(str(found))
    return replace(data, bit_depth=str(found.bits))


def find_bit_depth(paths: Sequence[str], workers: int, channels: int = 3) -> BitDepth | None:
    """Returns how many bits the deep images use; None if no image is deep.

    Images that cannot be read are left out, because training names or skips them.

    Args:
        paths: of all images of a data set.
        workers: threads that read.
        channels: the field model.in_channels.
    """
    names = (PurePosixPath(str(path)).suffix.lower() for path in paths)
    may_be_deep = [path for path, name in zip(paths, names, strict=True) if name not in _ALWAYS_8]
    chosen = np.linspace(0, len(may_be_deep) - 1, min(MOST, len(may_be_deep))).round()
    sample = [may_be_deep[int(place)] for place in chosen]
    if not sample:
        return None
    with ThreadPoolExecutor(workers, thread_name_prefix="bit depth") as pool:
        values = pool.map(partial(_largest_value, channels=channels), sample)
        found = [value for value in values if value is not None]
    if not found:
        return None
    largest = max(found)
    return BitDepth(least_depth(largest), largest, len(found), len(sample), len(may_be_deep))


def _largest_value(path: str, channels: int) -> int | None:
    """The largest value of an image; None if it isn't deep or cannot be read."""
    try:
        contents = read_file(path)
        header = read_header(contents, channels)
        return int(_values(contents, header).max()) if header.is_deep else None
    except ImageError:
        return None


def _values(contents: bytes, header: ImageHeader) -> np.ndarray:
    """All bits of a deep image."""
    if header.decoder == PYDICOM:
        return dicom_values(contents)
    if header.decoder == OPENCV:
        return png_values(contents, header.channels)
    if header.decoder == TIFFFILE:
        return tiff_values(contents, header.pages)
    with open_with_pillow(contents) as image:
        return np.asarray(image)
