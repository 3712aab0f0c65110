"""The headers of plain JPEGs, compared with Pillow's."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlcls_jax.data.images.jpeg_header import JpegHeader, read_jpeg_header

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def encoded(mode="RGB", orientation=None, **options):
    image, file = Image.fromarray(PIXELS).convert(mode), io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010E] = "a description that is longer than an entry"
        options["exif"] = exif.tobytes()
    image.save(file, "JPEG", **options)
    return file.getvalue()


PLAIN = {
    "rgb": encoded(),
    "grey": encoded("L"),
    "progressive": encoded(progressive=True, quality=30),
    "profile": encoded(icc_profile=bytes(70_000)),
    "comment": encoded(comment=b"hello"),
    **{f"orientation {value}": encoded(orientation=value) for value in (0, 1, 3, 6, 8, 9)},
}


def by_pillow(contents):
    with Image.open(io.BytesIO(contents)) as image:
        value = image.getexif().get(0x0112, 1)
        value = value if 1 <= value <= 8 else 1
        return JpegHeader(image.height, image.width, value, len(image.getbands()))


@pytest.mark.parametrize("name", PLAIN)
def test_equals_pillow(name):
    assert read_jpeg_header(PLAIN[name]) == by_pillow(PLAIN[name])


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        PLAIN["rgb"][:100],
        encoded("CMYK"),
        encoded(xmp=b'<x:xmpmeta tiff:Orientation="6"/>'),
        b"\xff\xd8\xff" + PLAIN["rgb"][2:],  # a fill byte before the first marker
    ],
    ids=["empty", "start", "png", "cut", "cmyk", "xmp", "fill"],
)
def test_leaves_anything_unusual_to_pillow(contents):
    assert read_jpeg_header(contents) is None


@given(st.data())
def test_never_disagrees_with_pillow_on_damaged_files(data):
    contents = bytearray(data.draw(st.sampled_from(list(PLAIN.values())))[:700])
    for _ in range(data.draw(st.integers(1, 4))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_jpeg_header(bytes(contents))
    except Exception:  # of Pillow's parser of Exif; `open_image` then asks Pillow as a whole
        return
    if found:
        try:
            expected = by_pillow(bytes(contents))
        except Exception:
            return
        assert found == expected
