"""Decodes image files to upright RGB: uint8 [height, width, 3].

libjpeg-turbo decodes JPEGs, because it can decode at a fraction of the size in a fraction of the
time. Pillow decodes all other formats, and JPEGs that libjpeg-turbo refuses.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import Image, TiffImagePlugin, WebPImagePlugin

from mlcls_jax.config import Data
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.jpeg_header import ORIENTATION, read_jpeg_header, valid_orientation
from mlcls_jax.data.images.jpeg_scans import check_scans
from mlcls_jax.data.images.png_orientation import png_orientation
from mlcls_jax.system.console import one_line

MAX_PIXELS = Data().max_pixels

# The fractions that libjpeg-turbo and TensorFlow's decoder have in common, in eighths.  At 3/8 and
# 5/8 images are less like the antialiased ones than larger ones, resized bilinearly.
EIGHTHS = (1, 2, 4)
# Enlarging by this little costs less quality and time than shrinking from the next fraction.
ENOUGH = 0.93

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
_KNOWN = "JPEG, PNG, GIF, BMP, WebP or TIFF"
_FOREIGN = {b"<": "HTML or SVG", b"%PDF": "PDF", b"ftyp": "HEIC, AVIF or a video", b"PK": "ZIP"}
# What Pillow raises for damaged files; its plugins have no common exception.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError)
_DAMAGED += (OverflowError, ZeroDivisionError, AttributeError, RuntimeError, AssertionError)
_DAMAGED += (Image.DecompressionBombError,)  # outside `image_libraries`

# Registered here, because registering them at the first such image is not thread-safe.
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)
Image.preinit()


@dataclass(frozen=True)
class ImageFile:
    """An image whose header has been read.

    height, width: size of the upright image in pixels.
    decode: (min_height, min_width) -> uint8 [height', width', 3], upright. The result is the whole
        image, at its size or at a cheaper fraction that is at least (or almost) as large as asked.
        It raises an ImageError if the data are damaged.
    """

    height: int
    width: int
    decode: Callable[[int, int], np.ndarray]


@contextmanager
def image_libraries() -> Iterator[None]:
    """Sets up Pillow and OpenCV for decoding within the block, and restores them afterwards.

    Pillow's own limit of pixels only warns, and `max_pixels` replaces it.  OpenCV starts no
    threads, because the images of a batch are already decoded in parallel.  Warnings about an odd
    Exif block are ignored, because users cannot do anything about it.
    """
    limit, threads = Image.MAX_IMAGE_PIXELS, cv2.getNumThreads()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read|Possibly corrupt")
        Image.MAX_IMAGE_PIXELS = None
        cv2.setNumThreads(0)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            cv2.setNumThreads(threads)


def open_image(contents: bytes, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Reads the header of an image: JPEG, PNG, GIF, BMP, WebP or TIFF.

    Decoding gives the first frame of an animation. Grey, palette and CMYK images become RGB, alpha
    is dropped, 16 bits are reduced to the upper 8, and the Exif orientation is applied.

    Args:
      contents: the bytes of the file.
      max_pixels: larger images are refused before memory is allocated for them.

    Raises:
      ImageError: the bytes are not an image of these formats, the header is damaged, or the image
        is too large or a JPEG with too many scans.
    """
    check_scans(contents)
    height, width, orientation, is_plain_jpeg = _header(contents)
    if height * width > max_pixels:
        raise ImageError(
            f"it has {width} x {height} pixels, more than data.max_pixels = {max_pixels:,}"
        )

    def decode_upright(min_height: int, min_width: int) -> np.ndarray:
        least = (min_height, min_width)
        if orientation >= 5:
            least = (min_width, min_height)
        pixels = _decode_jpeg(contents, (height, width), least) if is_plain_jpeg else None
        return _upright(_decode_with_pillow(contents) if pixels is None else pixels, orientation)

    size = (height, width) if orientation < 5 else (width, height)
    return ImageFile(*size, decode_upright)


def from_pillow(image: Image.Image) -> ImageFile:
    """Returns an image of Pillow as an ImageFile, converted as in `open_image`."""
    orientation = _orientation(image)
    height, width = image.size[::-1] if orientation < 5 else image.size
    return ImageFile(height, width, lambda *_: _upright(_pixels(image), orientation))


def from_array(pixels: np.ndarray) -> ImageFile:
    """Returns an array of pixels as an ImageFile.

    Args:
      pixels: uint8 [height, width], or [height, width, channel] with 1 channel, 3 (RGB) or 4 (alpha
        is dropped).

    Raises:
      ImageError: the array has another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ImageError(f"it is {pixels.dtype} {list(pixels.shape)}; it must be uint8 [h, w, 3]")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] not in (3, 4):
        raise ImageError(f"its shape is {list(pixels.shape)}; it must be [height, width, 3]")
    pixels = np.ascontiguousarray(pixels[..., :3])
    height, width = pixels.shape[:2]
    return ImageFile(height, width, lambda *_: pixels)


def decode(contents: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a whole image at its size.

    Args, errors: as `open_image`.

    Returns:
      uint8 [height, width, 3].
    """
    image = open_image(contents, max_pixels)
    return image.decode(image.height, image.width)


def _header(contents: bytes) -> tuple[int, int, int, bool]:
    """Height and width as stored, orientation, and whether libjpeg-turbo can decode the image."""
    try:
        header = read_jpeg_header(contents)
    except _DAMAGED:  # of the Exif block
        header = None
    if header:
        return header.height, header.width, header.orientation, True
    with _open(contents) as image:
        width, height = image.size
        is_plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
        return height, width, _orientation(image, contents), is_plain_jpeg


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
    contents: bytes, size: tuple[int, int], least: tuple[int, int]
) -> np.ndarray | None:
    """The image as stored, not upright; None if Pillow should try."""
    eighths = _eighths(size, least)
    try:
        if eighths == 8 and not (least[0] < size[0] and least[1] < size[1]):
            return simplejpeg.decode_jpeg(contents)
        return simplejpeg.decode_jpeg(
            contents,
            # If the image shrinks anyway, the quality of the colour upsampling does not matter.
            fastupsample=least[0] < size[0] and least[1] < size[1],
            min_height=math.ceil(size[0] * eighths / 8),
            min_width=math.ceil(size[1] * eighths / 8),
            min_factor=8 / eighths,
        )
    except ValueError:
        return None


def _decode_with_pillow(contents: bytes) -> np.ndarray:
    with _open(contents) as image:
        return _pixels(image)


def _pixels(image: Image.Image) -> np.ndarray:
    """The image as stored, not upright; raises an ImageError if its data are damaged."""
    try:
        if image.mode.startswith("I;16"):  # `convert` would clip at 255
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except _DAMAGED as error:
        raise ImageError(_damaged(image.format or "", error)) from error


def _open(contents: bytes) -> Image.Image:
    """Opens an image with Pillow; raises an ImageError if the bytes are not an image."""
    try:
        return Image.open(io.BytesIO(contents), formats=_FORMATS)
    except _DAMAGED as error:
        raise ImageError(_reason(contents, error)) from error


def _orientation(image: Image.Image, contents: bytes = b"") -> int:
    """The Exif orientation, 1 to 8; 1 if there is none or it cannot be read."""
    try:
        if image.format == "PNG" and contents:
            return valid_orientation(png_orientation(image, contents))
        return valid_orientation(image.getexif().get(ORIENTATION, 1))
    except _DAMAGED:
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes Exif orientations 2 to 8: transposes, then mirrors vertically and horizontally."""
    if orientation >= 5:
        pixels = cv2.transpose(pixels)
    down, across = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    if down or across:
        pixels = cv2.flip(pixels, -1 if down and across else int(across))
    return pixels


def _damaged(name: str, error: BaseException) -> str:
    reason = one_line(error, limit=200)
    return f"its {name} data are damaged or incomplete ({reason})"


def _reason(contents: bytes, error: BaseException) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return one_line(error)
    if not contents:
        return "the file is empty"
    if not contents.strip(b"\0"):
        return "the file contains only zeros"
    decoded = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
    decoded |= {b"RIFF": "WebP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
    for magic, name in decoded.items():
        if contents.startswith(magic):
            return _damaged(name, error)
    for magic, name in _FOREIGN.items():
        if contents.lstrip()[:8].startswith(magic) or contents[4:8] == magic:
            return f"it is {name}, not {_KNOWN}"
    return f"it is not {_KNOWN}"
