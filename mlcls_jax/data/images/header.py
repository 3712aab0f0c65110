"""Headers of images: format, size, channels and bits, without decoding any pixel."""

import io
from typing import NamedTuple

from PIL import Image, TiffImagePlugin, WebPImagePlugin, features

from mlcls_jax.data.images.channels import BANDS, GREY, RGB
from mlcls_jax.data.images.deep_pixels import (
    DEPTHS,
    bands_on_pages,
    damaged,
    optional_module,
    tiff_pages,
)
from mlcls_jax.data.images.dicom import dicom_header, is_dicom
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.jpeg_header import ORIENTATION, read_jpeg_header, valid_orientation
from mlcls_jax.data.images.png_orientation import png_orientation
from mlcls_jax.data.images.tiff_kinds import check_colours, check_page, is_inverted, tiff_tags
from mlcls_jax.system.console import one_line

# What decodes an image.
LIBJPEG, PILLOW, OPENCV, TIFFFILE, PYDICOM = "libjpeg", "Pillow", "OpenCV", "tifffile", "pydicom"

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
_KNOWN = "JPEG, PNG, GIF, BMP, WebP, TIFF, HEIC, AVIF or DICOM"
_FOREIGN = {b"<": "HTML or SVG", b"%PDF": "PDF", b"ftyp": "a video", b"PK": "ZIP", b"{": "JSON"}
_FOREIGN |= {b"8BPS": "PSD", b"jP  ": "JPEG 2000", b"\xff\x0a": "JPEG XL", b"\x1f\x8b": "gzip"}
_FOREIGN |= {b"version https://git-lfs": "a pointer of Git LFS (run git lfs pull)"}
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
_MAGIC |= {b"RIFF": "WebP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two: BigTIFF
_PNG, _PNG_PALETTE, _PNG_CHANNELS = b"\x89PNG\r\n\x1a\n", 3, {0: 1, 2: 3, 4: 2, 6: 4}
# Brands of ISO/IEC 14496-12 containers.
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_MOST_CHANNELS = 64  # of a TIFF; more are taken for a damaged header

# What Pillow raises for damaged files; its plugins have no common exception.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError)
DAMAGED += (OverflowError, ZeroDivisionError, AttributeError, RuntimeError, AssertionError)
DAMAGED += (Image.DecompressionBombError,)  # outside `image_libraries`

# Registered here, because registering them at the first such image is not thread-safe.
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)
Image.preinit()


class ImageHeader(NamedTuple):
    """What an image holds, by its header.

    Attributes:
        form: the format, such as "JPEG", as Pillow names it, or "DICOM".
        height, width: size in pixels as stored.
        orientation: of Exif, 1 to 8; from 5 on, the upright image has height and width exchanged.
        channels: 1 (grey), 2 (grey and alpha), 3 (RGB), 4 (RGB and alpha) or the number of bands.
        meaning: of the channels: GREY, RGB or BANDS.
        bits: per channel.
        is_float: whether the values are floats.
        decoder: what reads all channels and bits.
        by_pillow: channels that Pillow reads, each reduced to its upper 8 bits; 0 if it can't.
        pages: that hold the channels; more than 1 if each has a page of its own.
        is_inverted: whether 0 is white in what the decoder gives, as Pillow corrects 8 bits only.
    """

    form: str
    height: int
    width: int
    orientation: int
    channels: int
    meaning: str
    bits: int = 8
    is_float: bool = False
    decoder: str = PILLOW
    by_pillow: int = 0
    pages: int = 1
    is_inverted: bool = False

    @property
    def is_deep(self) -> bool:
        """Whether the values are integers with more than 8 bits."""
        return self.bits > 8 and not self.is_float

    def decoder_for(self, channels: int, bits: int) -> str:
        """Returns what decodes the image; Pillow where that loses nothing.

        Args:
            channels: of the result.
            bits: in use by deep values.
        """
        keeps_bits = self.bits <= 8 or bits == DEPTHS[-1]
        keeps_channels = channels in (1, 3, self.by_pillow)
        return PILLOW if self.by_pillow and keeps_bits and keeps_channels else self.decoder


def read_header(contents: bytes, channels: int = 3) -> ImageHeader:
    """Returns the header of an image.

    Args:
        contents: the bytes of the file.
        channels: of the result.  A TIFF that has as many pages of one channel each, other than 1 or
            3, is an image of so many bands.  Of any other one, the first page counts.

    Raises:
        ImageError: they are not an image, the header is damaged, or a package is missing.

    >>> file = io.BytesIO()
    >>> Image.new("RGBA", (8, 6)).save(file, "PNG")
    >>> header = read_header(file.getvalue())
    >>> header.form, header.height, header.channels, header.bits
    ('PNG', 6, 4, 8)
    """
    header = _first_header(contents)
    if header.form != "TIFF" or header.channels != 1 or channels in (1, 3):
        return header
    if bands_on_pages(contents, _MOST_CHANNELS) != channels:
        return header
    return header._replace(
        channels=channels, meaning=BANDS, decoder=TIFFFILE, by_pillow=0, pages=channels
    )


def _first_header(contents: bytes) -> ImageHeader:
    """The header of the first frame or page."""
    try:
        plain = read_jpeg_header(contents)
    except DAMAGED:  # of the Exif block
        plain = None
    if plain:
        meaning = GREY if plain.channels == 1 else RGB
        return ImageHeader("JPEG", *plain, meaning, decoder=LIBJPEG)
    if is_dicom(contents):
        height, width, channels, bits, meaning = dicom_header(contents)
        return ImageHeader("DICOM", height, width, 1, channels, meaning, bits, decoder=PYDICOM)
    try:
        with open_with_pillow(contents) as image:
            return pillow_header(image, contents)
    except ImageError as error:
        if not contents.startswith(_TIFF):
            raise
        reason = error
    return _tiff_header(contents, reason)


def pillow_header(image: Image.Image, contents: bytes = b"") -> ImageHeader:
    """Returns the header of an image that Pillow has opened.

    Args:
        image: its pixels may not be loaded yet.
        contents: the bytes of the file; b"" for an image without one, whose mode says all.
    """
    mode, form = image.mode, image.format or "image"
    meaning = GREY if mode in _GREY_MODES or mode.startswith("I;16") else RGB
    channels, bits, decoder, by_pillow, inverted = _channels(image), 8, PILLOW, 0, False
    if mode == "1":
        bits = 1
    elif mode in ("I", "F"):
        bits = 32
    elif mode.startswith("I;16"):
        bits = 16
    if form in ("JPEG", "MPO") and mode in ("RGB", "L"):
        decoder = LIBJPEG
    elif contents.startswith(_PNG) and len(contents) > 25 and contents[25] != _PNG_PALETTE:
        bits = contents[24]
        if bits > 8 and contents[25]:
            channels, by_pillow, decoder = _PNG_CHANNELS.get(contents[25], 3), channels, OPENCV
    elif isinstance(image, TiffImagePlugin.TiffImageFile) and contents:
        tags = tiff_tags(image, bits)
        bits, inverted = tags.bits, tags.is_inverted and tags.bits > 8
        if tags.channels not in (0, channels) and mode != "P":
            channels, by_pillow, decoder = tags.channels, channels, TIFFFILE
            meaning = BANDS if meaning == GREY else meaning
        if bits > 8 and channels > 1:  # Pillow mixes up planes of 16 bits
            by_pillow, decoder = 0 if tags.is_planar else _channels(image), TIFFFILE
    width, height = image.size
    return ImageHeader(
        form,
        height,
        width,
        orientation_of(image, contents),
        channels,
        meaning,
        bits,
        mode == "F",
        decoder,
        by_pillow,
        is_inverted=inverted,
    )


def _channels(image: Image.Image) -> int:
    """The number of channels of an image of Pillow, once other models of colour are RGB."""
    if image.mode == "P":
        return 4 if "transparency" in image.info else 3
    if image.mode == "PA":
        return 4
    return 3 if image.mode == "CMYK" else len(image.getbands())


def _tiff_header(contents: bytes, refused: ImageError) -> ImageHeader:
    """The header of a TIFF that Pillow refuses, by tifffile."""
    try:
        pages = tiff_pages(contents)
        page = pages[0]
    except ImageError as error:
        raise (error if isinstance(error.__cause__, ImportError) else refused) from error
    try:
        height, width, channels = page.imagelength, page.imagewidth, page.samplesperpixel
        extra, orientation = page.extrasamples or (), page.tags.valueof(ORIENTATION, 1)
        kind = getattr(page.dtype, "kind", "")
        photometric = getattr(page.photometric, "name", "")
        is_plain = page.imagedepth == 1 and height > 0 and width > 0
        bits = 8 * page.dtype.itemsize if kind else 0
        has_others = len(pages) > 1 or bool(page.subifds)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(damaged("TIFF", error)) from error
    check_page(page.photometric, page.subfiletype, has_others)
    if not (is_plain and kind in ("u", "i", "f", "b") and 1 <= channels <= _MOST_CHANNELS):
        raise refused
    check_colours(page.photometric)
    meaning = BANDS
    if channels == 1 or (channels == 2 and len(extra) == 1 and int(extra[0]) in (1, 2)):
        meaning = GREY
    elif photometric == "RGB":
        meaning = RGB
    return ImageHeader(
        "TIFF",
        height,
        width,
        valid_orientation(orientation),
        channels,
        meaning,
        bits,
        kind == "f",
        TIFFFILE,
        is_inverted=is_inverted(page.photometric),
    )


def open_with_pillow(contents: bytes) -> Image.Image:
    """Opens an image with Pillow; raises an ImageError if the bytes are not an image."""
    formats = _FORMATS
    if contents[4:8] == b"ftyp":
        formats = _container_formats(contents[8:12])
    try:
        return Image.open(io.BytesIO(contents), formats=formats)
    except DAMAGED as error:
        raise ImageError(_reason(contents, error)) from error


def _container_formats(brand: bytes) -> tuple[str, ...]:
    """The format of Pillow for a brand of container, once a plugin can read it."""
    if brand in _AVIF:
        if not features.check("avif"):
            raise ImageError("it is AVIF, which needs Pillow 11.3; run pip install 'pillow>=11.3'")
        Image.init()
        return ("AVIF",)
    if brand in _HEIC:
        optional_module("pillow_heif", "heic", "HEIC").register_heif_opener()
        return ("HEIF",)
    return _FORMATS


def orientation_of(image: Image.Image, contents: bytes = b"") -> int:
    """Returns the Exif orientation, 1 to 8; 1 if there is none or it cannot be read.

    Args:
        image: its pixels may not be loaded yet.
        contents: the bytes of the file; b"" for an image without one.
    """
    try:
        if image.format == "PNG" and contents:
            return valid_orientation(png_orientation(image, contents))
        return valid_orientation(image.getexif().get(ORIENTATION, 1))
    except DAMAGED:
        return 1


def _reason(contents: bytes, error: BaseException) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return one_line(error)
    if not contents:
        return "the file is empty"
    if not contents.strip(b"\0"):
        return "the file contains only zeros"
    if contents[4:8] == b"ftyp" and contents[8:12] in (*_HEIC, *_AVIF):
        return damaged("HEIC" if contents[8:12] in _HEIC else "AVIF", error)
    for magic, name in _MAGIC.items():
        if contents.startswith(magic):
            return damaged(name, error)
    for magic, name in _FOREIGN.items():
        if contents[:64].lstrip().startswith(magic) or contents[4:8] == magic:
            return f"it is {name}, not {_KNOWN}"
    return f"it is not {_KNOWN}"
