"""Decodes image files to upright images with the channels that the network takes, in 8 bits.

libjpeg-turbo decodes JPEGs, because it can decode at a fraction of the size in a fraction of the
time. Pillow decodes most other formats, and JPEGs that libjpeg-turbo refuses. OpenCV, tifffile and
pydicom read what Pillow would lose.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from mlcls_jax.data.images.channels import (
    BANDS,
    GREY,
    RGB,
    check_channels,
    per_group,
    with_channels,
)
from mlcls_jax.data.images.deep_pixels import damaged, png_values, tiff_values, to_8_bits
from mlcls_jax.data.images.dicom import dicom_pixels
from mlcls_jax.data.images.header import (
    DAMAGED,
    LIBJPEG,
    OPENCV,
    PYDICOM,
    TIFFFILE,
    ImageHeader,
    open_with_pillow,
    pillow_header,
    read_header,
)
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.jpeg_scans import check_scans
from mlcls_jax.data.images.pixel_format import PixelFormat

# The fractions that libjpeg-turbo and TensorFlow's decoder have in common, in eighths.  At 3/8 and
# 5/8 images are less like the antialiased ones than larger ones, resized bilinearly.
EIGHTHS = (1, 2, 4)
# Enlarging by this little costs less quality and time than shrinking from the next fraction.
ENOUGH = 0.93

_DEFAULT = PixelFormat()


@dataclass(frozen=True)
class ImageFile:
    """An image whose header has been read.

    height, width: size of the upright image in pixels.
    decode: (min_height, min_width) -> uint8 [height', width', channel], upright. The result is the
        whole image, at its size or at a cheaper fraction that is at least (or almost) as large as
        asked. It raises an ImageError if the data are damaged.
    """

    height: int
    width: int
    decode: Callable[[int, int], np.ndarray]


@contextmanager
def image_libraries() -> Iterator[None]:
    """Sets up Pillow and OpenCV for decoding within the block, and restores them afterwards.

    Pillow's own limit of pixels only warns, and `max_pixels` replaces it.  OpenCV starts no
    threads, because the images of a batch are already decoded in parallel.  Warnings about an odd
    Exif block are ignored, because users cannot do anything about it, and so are those of pydicom.
    """
    limit, threads = Image.MAX_IMAGE_PIXELS, cv2.getNumThreads()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read|Possibly corrupt")
        warnings.filterwarnings("ignore", module=r"pydicom\b")
        Image.MAX_IMAGE_PIXELS = None
        cv2.setNumThreads(0)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            cv2.setNumThreads(threads)


def open_image(contents: bytes, pixels: PixelFormat = _DEFAULT) -> ImageFile:
    """Reads the header of an image: JPEG, PNG, GIF, BMP, WebP, TIFF, HEIC, AVIF or DICOM.

    Decoding gives the first frame or page. Palettes and CMYK become RGB, and the Exif orientation
    is applied. Grey becomes RGB and RGB grey where the format asks for it, without alpha; deeper
    values are reduced to 8 bits (`to_8_bits`).

    Args:
      contents: the bytes of the file.
      pixels: the channels, the bits in use and the largest size.

    Raises:
      ImageError: the bytes are not an image of these formats, the header is damaged, a package is
        missing, the image is too large or has other channels, or it is a JPEG with too many scans.
    """
    check_scans(contents)
    header = read_header(contents, pixels.channels)
    return _opened(header, pixels, lambda least: _decoded(contents, header, pixels, least))


def check_image(contents: bytes, max_pixels: int) -> None:
    """Checks the header of an image, whatever its channels are.

    Args:
      contents: the bytes of the file.
      max_pixels: see `PixelFormat`.

    Raises:
      ImageError: as in `open_image`.
    """
    check_scans(contents)
    _check_size(read_header(contents), max_pixels)


def from_pillow(image: Image.Image, pixels: PixelFormat = _DEFAULT) -> ImageFile:
    """Returns an image of Pillow as an ImageFile, converted as in `open_image`."""
    header = pillow_header(image)
    return _opened(header, pixels, lambda _: _pillow_pixels(image, header, pixels))


def _opened(
    header: ImageHeader, pixels: PixelFormat, decode: Callable[[tuple[int, int]], np.ndarray]
) -> ImageFile:
    """The image after checks of its header; decode: gives it as stored, not upright."""
    height, width, orientation = header.height, header.width, header.orientation
    _check_size(header, pixels.max_pixels)
    check_channels(header.channels, header.meaning, pixels.channels)

    def decode_upright(min_height: int, min_width: int) -> np.ndarray:
        least = (min_width, min_height) if orientation >= 5 else (min_height, min_width)
        return _upright(decode(least), orientation)

    size = (height, width) if orientation < 5 else (width, height)
    return ImageFile(*size, decode_upright)


def _check_size(header: ImageHeader, max_pixels: int) -> None:
    if header.height * header.width > max_pixels:
        raise ImageError(
            f"it has {header.width} x {header.height} pixels, more than data.max_pixels = "
            f"{max_pixels:,}"
        )


def from_array(pixels: np.ndarray, wanted: PixelFormat = _DEFAULT) -> ImageFile:
    """Returns an array of pixels as an ImageFile.

    Args:
      pixels: [height, width] or [height, width, channel] of uint8, or of other types as in
        `to_8_bits`. One or two channels are grey, three or four RGB; the last of two or four is
        alpha, which is dropped unless the network takes as many channels.
      wanted: the channels and the bits in use.

    Raises:
      ImageError: the array has another shape or type.
    """
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ImageError(
            f"it is {pixels.dtype} {list(pixels.shape)}; it must be uint8 [height, width, "
            f"{wanted.channels}]"
        )
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    meaning = {1: GREY, 2: GREY, 3: RGB, 4: RGB}.get(pixels.shape[2], BANDS)
    check_channels(pixels.shape[2], meaning, wanted.channels)
    pixels = to_8_bits(pixels, wanted.bits)
    pixels = np.ascontiguousarray(with_channels(pixels, meaning, wanted.channels))
    height, width = pixels.shape[:2]
    return ImageFile(height, width, lambda *_: pixels)


def decode(contents: bytes, pixels: PixelFormat = _DEFAULT) -> np.ndarray:
    """Decodes a whole image at its size.

    Args, errors: as `open_image`.

    Returns:
      uint8 [height, width, channel].
    """
    image = open_image(contents, pixels)
    return image.decode(image.height, image.width)


def _decoded(
    contents: bytes, header: ImageHeader, pixels: PixelFormat, least: tuple[int, int]
) -> np.ndarray:
    """The image as stored, not upright, with the channels of the format."""
    decoder = header.decoder_for(pixels.channels, pixels.bits)
    if decoder == LIBJPEG:
        plain = _decode_jpeg(contents, (header.height, header.width), least, pixels.channels)
        if plain is not None:
            return plain
    if decoder == PYDICOM:
        values = dicom_pixels(contents, pixels.bits)
    elif decoder == OPENCV:
        values = to_8_bits(png_values(contents, header.channels), pixels.bits)
    elif decoder == TIFFFILE:
        values = to_8_bits(tiff_values(contents, header.pages), pixels.bits)
        values = np.invert(values) if header.is_inverted else values
    else:
        with open_with_pillow(contents) as image:
            return _pillow_pixels(image, header, pixels)
    return with_channels(values, header.meaning, pixels.channels)


def _eighths(size: tuple[int, int], least: tuple[int, int]) -> int:
    """The smallest fraction, in eighths, that gives (almost) at least the size `least`."""
    height, width = size
    for eighths in EIGHTHS:
        # Division rounds up.
        if (
            -(-height * eighths // 8) >= ENOUGH * least[0]
            and -(-width * eighths // 8) >= ENOUGH * least[1]
        ):
            return eighths
    return 8


def _decode_jpeg(
    contents: bytes, size: tuple[int, int], least: tuple[int, int], channels: int
) -> np.ndarray | None:
    """The image as stored, not upright; None if Pillow should try."""
    eighths, colour = _eighths(size, least), "GRAY" if channels == 1 else "RGB"
    try:
        if eighths == 8 and not (least[0] < size[0] and least[1] < size[1]):
            return simplejpeg.decode_jpeg(contents, colour)
        return simplejpeg.decode_jpeg(
            contents,
            colour,
            # If the image shrinks anyway, the quality of the colour upsampling does not matter.
            fastupsample=least[0] < size[0] and least[1] < size[1],
            min_height=math.ceil(size[0] * eighths / 8),
            min_width=math.ceil(size[1] * eighths / 8),
            min_factor=8 / eighths,
        )
    except ValueError:
        return None


def _pillow_pixels(image: Image.Image, header: ImageHeader, pixels: PixelFormat) -> np.ndarray:
    """The image as stored, not upright; raises an ImageError if its data are damaged."""
    try:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # `convert` would clip at 255
            values = to_8_bits(np.asarray(image)[..., None], pixels.bits)
            values = np.invert(values) if header.is_inverted else values
            return with_channels(values, header.meaning, pixels.channels)
        if pixels.channels == 1:
            return np.asarray(image.convert("L"))[..., None]
        if pixels.channels == 3:
            return np.asarray(image.convert("RGB"))
        has_palette = image.mode in ("P", "PA")
        return np.asarray(image.convert("RGBA") if has_palette else image)
    except (ImageError, MemoryError):
        raise
    except DAMAGED as error:
        raise ImageError(damaged(image.format or "", error)) from error


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes Exif orientations 2 to 8: transposes, then mirrors vertically and horizontally."""
    if orientation >= 5:
        pixels = per_group(pixels, cv2.transpose)
    down, across = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    if down or across:
        axis = -1 if down and across else int(across)
        pixels = per_group(pixels, partial(cv2.flip, flipCode=axis))
    return pixels
