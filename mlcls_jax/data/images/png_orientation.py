"""The orientation of a PNG without decoding it.

Pillow decodes all pixels of a PNG whose orientation is asked for, because it may stand behind them.
An image would be decoded twice, and before its size is checked.
"""

import re
import struct

from PIL import Image

from mlcls_jax.data.images.jpeg_header import ORIENTATION

_CHUNK = struct.Struct(">I4s")  # length and type; the data and a checksum of 4 bytes follow
_SIGNATURE, _CHECKSUM = 8, 4
_XMP = b"XML:com.adobe.xmp\0"
_IN_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")


def png_orientation(image: Image.Image, contents: bytes) -> object:
    """Returns the value of the orientation in Exif or XMP; 1 if there is none.

    Args:
      image: the opened PNG, whose pixels are not decoded yet.
      contents: the bytes of the file.
    """
    exif = Image.Image.getexif(image)  # that of PngImageFile decodes the image
    if ORIENTATION in exif:
        return exif[ORIENTATION]
    in_xmp = None
    for name, start, end in _chunks(contents, contents.find(b"IDAT") - 4):
        if name == b"eXIf":
            exif = Image.Exif()
            exif.load(b"Exif\0\0" + contents[start:end])
            return exif.get(ORIENTATION, 1)
        if name == b"iTXt" and contents.startswith(_XMP, start):
            in_xmp = _IN_XMP.search(contents, start, end) or in_xmp
    return int(in_xmp[1]) if in_xmp else 1


def _chunks(contents: bytes, position: int):
    """Yields the type of each chunk, and where its data begin and end."""
    if position < _SIGNATURE:
        return
    while position + _CHUNK.size <= len(contents):
        length, name = _CHUNK.unpack_from(contents, position)
        start = position + _CHUNK.size
        yield name, start, start + length
        position = start + length + _CHECKSUM
