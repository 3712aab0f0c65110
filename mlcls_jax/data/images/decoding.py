"""The bytes of an image file to upright colour: uint8 [height, width, 3].

JPEG goes through libjpeg-turbo, which decodes at a half, a quarter or an eighth of the size for a
fraction of the time; everything else, and JPEGs that it does not like, through Pillow.
"""

import errno
import io
import math
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import Image, TiffImagePlugin, WebPImagePlugin

from mlcls_jax.config import Data
from mlcls_jax.data.readers.storage import Part, read_part

MAX_PIXELS = Data().max_pixels
EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}  # of images
MAX_BYTES = 1 << 30  # more than MAX_PIXELS take uncompressed; as several threads read at a time

# Decoding at 3/8 takes as long as the whole and at 5/8 half as long again, but whole images would
# have to be averaged to look as smooth, which takes longer still.
_EIGHTHS = (1, 2, 3, 4, 5)
# Growing again by so little costs less likeness, and time, than shrinking from the next size.
_ENOUGH = 0.93

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
_KNOWN = "JPEG, PNG, GIF, BMP, WebP or TIFF"
_ORIENTATION = 0x0112  # Exif 2.32, section 4.6.4
_FOREIGN = {b"<": "HTML or SVG", b"%PDF": "PDF", b"ftyp": "HEIC, AVIF or a film", b"PK": "ZIP"}
# What Pillow raises for damaged files: its plugins share no error of their own.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError)
_DAMAGED += (OverflowError, ZeroDivisionError, AttributeError, RuntimeError, AssertionError)

_OF_THE_FILE = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# Registered here, as registering at the first such image is not meant for threads.
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)
Image.preinit()
# A camera's odd Exif block is nothing that the user could act on.
warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read|Possibly corrupt")
# Pillow's own limit warns, in whichever thread comes first; `max_pixels` takes its place.
Image.MAX_IMAGE_PIXELS = None
# The images of a batch are decoded in parallel already.
cv2.setNumThreads(0)


class ImageError(ValueError):
    """An image that cannot be read; its text says what is wrong with it."""


@dataclass(frozen=True)
class ImageFile:
    """An image of which only the header has been read.

    height, width: upright, in pixels.
    decode: (wanted_height, wanted_width) -> uint8 [height', width', 3], upright.  The result is
        the whole image, at its size or at a fraction that costs less and is no smaller than
        what is wanted, or hardly; ImageError where the data are damaged.
    """

    height: int
    width: int
    decode: Callable[[int, int], np.ndarray]


def read_file(path: str) -> bytes:
    """The bytes of a file, or of a part of one.

    Raises:
        ImageError: there are none to be read.
        OSError: the disk or the network fails.
    """
    try:
        if isinstance(path, Part):
            return read_part(path)
        status = os.stat(path)
        mode = status.st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            kind = "a folder" if stat.S_ISDIR(mode) else "a device, socket or pipe"
            raise ImageError(f"it is {kind}, not a file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"it has {status.st_size:,} bytes, more than any image")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        if isinstance(path, Part):
            raise ImageError(f"its shard {path.shard} is gone") from error
        dangling = os.path.islink(path)
        what = "it is a link to a file that is not there" if dangling else "there is no such file"
        raise ImageError(what) from error
    except OSError as error:
        # A disk or network that fails makes no image bad.
        if not isinstance(path, Part) and error.errno not in _OF_THE_FILE:
            raise
        raise ImageError(error.strerror or str(error)) from error
    except ValueError as error:
        raise ImageError(str(error)) from error


def open_image(contents: bytes, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Reads the header of an image.

    JPEG, PNG, GIF, BMP, WebP and TIFF; of animations the first frame.  Grey, palette and CMYK
    become RGB, alpha is dropped and 16 bits become the upper 8.  Exif orientation is applied.

    Args:
        contents: of the file.
        max_pixels: an image that claims more is refused before memory is taken for it.

    Raises:
        ImageError: the bytes are no image of these formats, or the header is damaged.
    """
    with _open(contents) as image:
        width, height = image.size
        if height * width > max_pixels:
            raise ImageError(
                f"it claims {width} x {height} pixels, more than data.max_pixels = {max_pixels:,}"
            )
        orientation = _orientation(image)
        is_plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")

    def decode_upright(wanted_height: int, wanted_width: int) -> np.ndarray:
        wanted = (wanted_height, wanted_width)
        if orientation >= 5:
            wanted = (wanted_width, wanted_height)
        pixels = _decode_jpeg(contents, (height, width), wanted) if is_plain_jpeg else None
        return _upright(_decode_with_pillow(contents) if pixels is None else pixels, orientation)

    size = (height, width) if orientation < 5 else (width, height)
    return ImageFile(*size, decode_upright)


def decode(contents: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The whole image at its size: uint8 [height, width, 3]; see `open_image`."""
    image = open_image(contents, max_pixels)
    return image.decode(image.height, image.width)


def _eighths(size: tuple[int, int], wanted: tuple[int, int]) -> int:
    """The fraction to decode at for a result of at least the wanted size, or hardly less."""
    for eighths in _EIGHTHS:
        sides = zip(size, wanted, strict=True)
        if all(math.ceil(side * eighths / 8) >= _ENOUGH * least for side, least in sides):
            return eighths
    return 8


def _decode_jpeg(
    contents: bytes, size: tuple[int, int], wanted: tuple[int, int]
) -> np.ndarray | None:
    """As stored, not upright; None where Pillow should try."""
    eighths = _eighths(size, wanted)
    try:
        return simplejpeg.decode_jpeg(
            contents,
            # Where the image shrinks anyway, nobody sees how its colours were spread.
            fastupsample=wanted[0] < size[0] and wanted[1] < size[1],
            min_height=math.ceil(size[0] * eighths / 8),
            min_width=math.ceil(size[1] * eighths / 8),
            min_factor=8 / eighths,
        )
    except ValueError:
        return None


def _decode_with_pillow(contents: bytes) -> np.ndarray:
    with _open(contents) as image:
        try:
            if image.mode.startswith("I;16"):  # `convert` would cut it off at 255
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
        except MemoryError:
            raise
        except _DAMAGED as error:
            raise ImageError(_damaged(image.format or "", error)) from error


def _open(contents: bytes) -> Image.Image:
    """ImageError where the bytes are no image."""
    try:
        return Image.open(io.BytesIO(contents), formats=_FORMATS)
    except _DAMAGED as error:
        raise ImageError(_what_is_wrong(contents, error)) from error


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 where there is none, or one that cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGED:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes Exif orientations 2 to 8: transposed or not, then mirrored down and across or not."""
    if orientation >= 5:
        pixels = cv2.transpose(pixels)
    down, across = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    if down or across:
        pixels = cv2.flip(pixels, -1 if down and across else int(across))
    return pixels


def _damaged(form: str, error: BaseException) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"its {form} data are damaged or incomplete ({reason})"


def _what_is_wrong(contents: bytes, error: BaseException) -> str:
    if not contents:
        return "the file is empty"
    if not contents.strip(b"\0"):
        return "the file holds zeros only"
    decoded = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
    decoded |= {b"RIFF": "WebP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
    for magic, name in decoded.items():
        if contents.startswith(magic):
            return _damaged(name, error)
    for magic, name in _FOREIGN.items():
        if contents.lstrip()[:8].startswith(magic) or contents[4:8] == magic:
            return f"it is {name}, not {_KNOWN}"
    return f"it is not {_KNOWN}"
