"""The orientation of PNGs, compared with Pillow's, which decodes them for it."""

import io
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat

END = b"\0\0\0\0IEND\xaeB`\x82"
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def png(**options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 24)).save(file, "PNG", **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def behind_pixels(name: bytes, data: bytes) -> bytes:
    return png()[: -len(END)] + chunk(name, data) + END


def with_xmp() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    return png(pnginfo=info)


CASES = {
    "none": png(),
    "exif": png(exif=exif(6)),
    "mirrored": png(exif=exif(2)),
    "invalid": png(exif=exif(9)),
    "exif behind the pixels": behind_pixels(b"eXIf", exif(8)[6:]),
    "xmp": with_xmp(),
    "xmp behind the pixels": behind_pixels(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()),
    "damaged exif": behind_pixels(b"eXIf", b"II*"),
    "no pixels": png()[:33] + END,
}


@pytest.mark.parametrize("name", CASES)
def test_equals_pillow(name):
    with Image.open(io.BytesIO(CASES[name])) as image:
        try:
            value = image.getexif().get(0x0112, 1)
        except Exception:  # damaged
            value = 1
    source = open_image(CASES[name])
    assert (source.height, source.width) == ((40, 24) if 5 <= value <= 8 else (24, 40))


def test_no_pixel_is_decoded_before_the_size_is_known_to_be_allowed(monkeypatch):
    def fail(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    for contents in CASES.values():
        assert open_image(contents, PixelFormat(40 * 24)).width in (24, 40)
    with pytest.raises(ImageError, match="max_pixels"):
        open_image(CASES["exif"], PixelFormat(40 * 24 - 1))
