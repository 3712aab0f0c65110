"""Tags of TIFFs, and kinds of them whose stored values are not the image.

These are smaller copies and raw values in files of cameras, grey with white as 0, and other models
of colour.
"""

from typing import Any, NamedTuple

from PIL import TiffImagePlugin

from mlcls_jax.data.images.image_error import ImageError

# Numbers of tags (TIFF 6.0).
_SUBFILE, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _SUB_IFDS = 254, 258, 262, 277, 284, 330
_SMALLER = 1  # bit of _SUBFILE: the page is a smaller copy of another one
_WHITE_IS_ZERO = 0
_SENSOR = (32803, 34892)  # values behind a colour filter, and linear ones (DNG)
_COLOURS = {5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab"}
_CONVERT = "convert it to JPEG, PNG or an RGB TIFF"


class TiffTags(NamedTuple):
    """What the tags of a page say about its values.

    Attributes:
        bits: per channel.
        channels: 0 if the tags do not tell, or Pillow converts the colours.
        is_planar: whether each channel has a plane of its own.
        is_inverted: whether 0 is white.
    """

    bits: int
    channels: int
    is_planar: bool
    is_inverted: bool


def tiff_tags(image: TiffImagePlugin.TiffImageFile, bits: int) -> TiffTags:
    """Returns the tags of the first page of a TIFF.

    Args:
        image: as Pillow has opened it.
        bits: per channel, by its mode.

    Raises:
        ImageError: see `check_page`.
    """
    tags: Any = image.tag_v2
    photometric = tags.get(_PHOTOMETRIC)
    check_page(photometric, tags.get(_SUBFILE), bool(tags.next) or _SUB_IFDS in tags)
    stored, channels = tags.get(_BITS, bits), tags.get(_SAMPLES, 1)
    stored: Any = max(stored) if isinstance(stored, tuple) and stored else stored
    is_known = isinstance(stored, int) and isinstance(channels, int)
    if not is_known or image.mode in ("CMYK", "YCbCr", "LAB"):
        return TiffTags(bits, 0, False, False)
    return TiffTags(stored, channels, tags.get(_PLANES) == 2, is_inverted(photometric))


def check_page(photometric: object, subfile: object, has_others: bool) -> None:
    """Refuses a page that is a smaller copy, or holds raw values of a camera.

    Args:
        photometric, subfile: tags of the first page; None if they are missing.
        has_others: whether there are other pages, or pages within the first.

    Raises:
        ImageError: it is such a page.
    """
    if photometric in _SENSOR:
        raise ImageError(f"it holds the raw values of a camera's sensor; {_CONVERT}")
    if has_others and isinstance(subfile, int) and subfile & _SMALLER:
        raise ImageError(
            "its first page is a smaller copy of another one, as in raw files of cameras; "
            f"{_CONVERT}"
        )


def check_colours(photometric: object) -> None:
    """Refuses other models of colour than RGB, for decoders that do not convert them.

    Args:
        photometric: the tag of the page.

    Raises:
        ImageError: the values are of another model.
    """
    if isinstance(photometric, int) and photometric in _COLOURS:
        raise ImageError(f"its colours are {_COLOURS[photometric]}; {_CONVERT}")


def is_inverted(photometric: object) -> bool:
    """Returns whether 0 is white."""
    return photometric == _WHITE_IS_ZERO
