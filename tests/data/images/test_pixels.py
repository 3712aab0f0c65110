"""Deep values, channels and DICOM: what images of each kind become."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mlcls_jax.data.images.bit_depth import find_bit_depth
from mlcls_jax.data.images.channels import as_rgb, per_group
from mlcls_jax.data.images.decoding import decode, from_array, from_pillow, open_image
from mlcls_jax.data.images.header import read_header
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (13, 17), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (13, 17, 4), dtype=np.uint8)
ONE, FOUR = PixelFormat(channels=1), PixelFormat(channels=4)


def encode(pixels, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def deep_png(pixels):
    """A PNG of uint16 [height, width, 3 or 4]; OpenCV writes blue first."""
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))[1].tobytes()


def tiff(pixels, **options):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def thrice(grey):
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_the_upper_8_of_the_bits_in_use_are_kept(bits, form):
    deep = GREY.astype(np.uint16) << (bits - 8)
    contents = encode(deep, form)
    np.testing.assert_array_equal(decode(contents, PixelFormat(bits=bits)), thrice(GREY))
    assert read_header(contents)[4:7] == (1, "grey", 16)


def test_a_value_beyond_the_bits_in_use_is_named():
    contents = encode(np.full((4, 4), 4096, np.uint16))
    with pytest.raises(ImageError, match=r"4,096, but data\.bit_depth=12 .*=14$"):
        decode(contents, PixelFormat(bits=12))


@pytest.mark.parametrize("bits", [8, 16])
def test_floats_from_0_to_1_are_scaled(bits):
    contents = encode(GREY.astype(np.float32) / 255, "TIFF")
    np.testing.assert_array_equal(decode(contents, PixelFormat(bits=bits)), thrice(GREY))


@pytest.mark.parametrize("value", [255.0, -0.5, np.nan])
def test_other_floats_are_refused(value):
    contents = encode(np.array([[0, value]], np.float32), "TIFF")
    with pytest.raises(ImageError, match=r"its values are floats, .*; they must be in \[0, 1\]"):
        decode(contents)


def test_negative_and_large_integers_are_refused():
    for pixels in (np.array([[-1000, 0]], np.int32), np.array([[0, 70_000]], np.int32)):
        with pytest.raises(ImageError, match=r"integers from .* must be in \[0, 65,535\]"):
            decode(encode(pixels, "TIFF"))


@pytest.mark.parametrize("bits", [12, 16])
def test_deep_colours(bits):
    deep = COLOURS.astype(np.uint16) << (bits - 8)
    for contents in (deep_png(deep), tiff(deep, photometric="rgb")):
        np.testing.assert_array_equal(decode(contents, PixelFormat(bits=bits)), COLOURS)
    planes = tiff(np.moveaxis(deep, 2, 0).copy(), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(decode(planes, PixelFormat(bits=bits)), COLOURS)


@pytest.mark.parametrize("bits", [12, 16])
def test_deep_alpha(bits):
    contents = deep_png(RGBA.astype(np.uint16) << (bits - 8))
    np.testing.assert_array_equal(decode(contents, PixelFormat(bits=bits, channels=4)), RGBA)
    np.testing.assert_array_equal(decode(contents, PixelFormat(bits=bits)), RGBA[..., :3])


def test_a_damaged_deep_image_is_an_image_error():
    contents = deep_png(COLOURS.astype(np.uint16))
    with pytest.raises(ImageError, match="its PNG data are damaged"):
        decode(contents[:-300], PixelFormat(bits=12))


def test_grey_of_all_kinds():
    luma = cv2.cvtColor(COLOURS, cv2.COLOR_RGB2GRAY)[..., None]
    np.testing.assert_array_equal(decode(encode(GREY), ONE), GREY[..., None])
    np.testing.assert_array_equal(from_array(GREY, ONE).decode(1, 1), GREY[..., None])
    for pixels in (decode(encode(COLOURS), ONE), from_array(COLOURS, ONE).decode(1, 1)):
        np.testing.assert_allclose(pixels.astype(int), luma, atol=1)
    smooth = cv2.resize(COLOURS, (64, 48))
    jpeg = encode(smooth, "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).astype(int)
    np.testing.assert_allclose(decode(jpeg, ONE)[..., 0], expected, atol=3)
    deep = deep_png(COLOURS.astype(np.uint16) << 4)
    np.testing.assert_array_equal(decode(deep, PixelFormat(channels=1, bits=12)), luma)


def test_four_channels_are_read_as_they_are():
    contents = encode(RGBA)
    np.testing.assert_array_equal(decode(contents, FOUR), RGBA)
    np.testing.assert_array_equal(decode(contents), RGBA[..., :3])
    np.testing.assert_array_equal(from_array(RGBA, FOUR).decode(1, 1), RGBA)
    np.testing.assert_array_equal(from_pillow(Image.fromarray(RGBA), FOUR).decode(1, 1), RGBA)
    np.testing.assert_array_equal(decode(encode(RGBA, "TIFF"), FOUR), RGBA)


def paged(pages):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in pages:
            writer.write(page, photometric="minisblack")
    return file.getvalue()


@pytest.mark.parametrize("bits", [8, 12])
def test_bands_on_pages_of_their_own_are_read_if_the_network_takes_as_many(bits, tmp_path):
    bands = RNG.integers(0, 256, (13, 17, 5), dtype=np.uint8)
    deep = bands if bits == 8 else bands.astype(np.uint16) << 4
    contents = paged(np.moveaxis(deep, 2, 0))
    np.testing.assert_array_equal(decode(contents, PixelFormat(channels=5, bits=bits)), bands)
    np.testing.assert_array_equal(decode(contents, PixelFormat(bits=bits)), thrice(bands[..., 0]))
    with pytest.raises(ImageError, match=r"it has 1 channel, but model\.in_channels is 4"):
        decode(contents, PixelFormat(channels=4, bits=bits))
    (tmp_path / "a.tif").write_bytes(paged([deep[..., 0] // 16, deep[..., 1]]))
    found = find_bit_depth([str(tmp_path / "a.tif")], 1, 2)  # the bright band is the second one
    assert (found and found.bits) == (12 if bits == 12 else None)


def test_pages_that_are_not_alike_are_no_bands():
    half = GREY[::2, ::2].copy()
    for page in (half, GREY.astype(np.uint16), COLOURS[..., 0] > 9):
        with pytest.raises(ImageError, match="it has 1 channel"):
            decode(paged([GREY, page]), PixelFormat(channels=2))
    with pytest.raises(ImageError, match="its TIFF data are damaged"):
        decode(paged([GREY, GREY])[:-30], PixelFormat(channels=2))


@pytest.mark.parametrize("count", [2, 5, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_of_a_tiff(count, dtype):
    bands = RNG.integers(0, 256, (13, 17, count), dtype=np.uint8)
    options = {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib"}
    contents = tiff(bands.astype(dtype) << 4 * (dtype == np.uint16), **options)
    pixels = PixelFormat(channels=count, bits=12)
    np.testing.assert_array_equal(decode(contents, pixels), bands)
    assert read_header(contents).channels == count
    with pytest.raises(ImageError, match=f"it has {count} channels, but .* is 3"):
        open_image(contents)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_grey_with_white_as_0_is_inverted(dtype, order):
    scale = {"u1": 1, "u2": 257, "u4": 257, "f4": np.float32(1 / 255)}[np.dtype(dtype).str[1:]]
    values = GREY.astype(dtype) * dtype(scale)
    contents = tiff(values, photometric="miniswhite", byteorder=order)
    np.testing.assert_array_equal(decode(contents), thrice(255 - GREY))


def test_pages_that_are_not_the_image_are_refused():
    tifffile = pytest.importorskip("tifffile")
    small, large = np.ascontiguousarray(COLOURS[::4, ::4]), COLOURS
    for first, second in ((small, large), (large, small)):
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            for pixels in (first, second):
                kind = int(pixels is small)  # 1: a smaller copy of another page
                writer.write(pixels, photometric="rgb", subfiletype=kind)
        if first is large:
            np.testing.assert_array_equal(decode(file.getvalue()), large)
        else:
            with pytest.raises(ImageError, match="a smaller copy of another one"):
                decode(file.getvalue())
    deep = COLOURS.astype(np.uint16) * 257
    with pytest.raises(ImageError, match="its colours are CIELab"):
        decode(tiff(deep, photometric="cielab"))
    with pytest.raises(ImageError, match="raw values of a camera's sensor"):
        decode(tiff(deep[..., 0].copy(), photometric=32803))


def test_other_numbers_of_channels_are_refused():
    smooth = cv2.resize(COLOURS, (64, 48))
    for contents in (encode(COLOURS), encode(smooth, "JPEG"), encode(GREY)):
        with pytest.raises(ImageError, match=r"but model\.in_channels is 4; set model\.in_"):
            open_image(contents, FOUR)
    with pytest.raises(ImageError, match="it has 5 channels"):
        from_array(np.zeros((8, 8, 5), np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_with_other_channels(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(RGBA).save(file, "PNG", exif=exif)
    four, three = decode(file.getvalue(), FOUR), decode(file.getvalue())
    np.testing.assert_array_equal(four[..., :3], three)
    assert decode(file.getvalue(), ONE).shape == (*three.shape[:2], 1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
def test_opencv_takes_any_number_of_channels(channels):
    image = RNG.integers(0, 256, (12, 12, channels), dtype=np.uint8)
    out = np.empty((12, 12, channels), np.uint8)

    def flip(part, dst=None):
        return cv2.flip(part, 1, dst=dst)

    np.testing.assert_array_equal(per_group(image, flip), image[:, ::-1])
    per_group(image, flip, out)
    np.testing.assert_array_equal(out, image[:, ::-1])
    assert as_rgb(image).shape == (12, 12, 3)


def test_the_bits_in_use_are_those_of_the_data_set(tmp_path):
    for number, largest in enumerate((900, 4095, 30)):
        pixels = np.full((4, 4), largest, np.uint16)
        (tmp_path / f"{number}.png").write_bytes(encode(pixels))
    (tmp_path / "plain.png").write_bytes(encode(COLOURS))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "colours.png").write_bytes(deep_png(np.full((4, 4, 3), 70, np.uint16)))
    (tmp_path / "photo.jpg").write_bytes(b"not looked at")
    found = find_bit_depth(sorted(map(str, tmp_path.iterdir())), 2)
    assert (found.bits, found.largest, found.deep, found.seen, found.candidates) == (
        12,
        4095,
        4,
        6,
        6,
    )
    assert "data.bit_depth=12: the largest value is 4,095 in the 4 images" in str(found)


def test_a_large_data_set_is_sampled(monkeypatch, tmp_path):
    monkeypatch.setattr("mlcls_jax.data.images.bit_depth.MOST", 2)
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encode(np.full((2, 2), number, np.uint16)))
    found = find_bit_depth(sorted(map(str, tmp_path.iterdir())), 2)
    assert (found.bits, found.largest, found.seen) == (8, 4, 2)  # the first and the last
    assert "among a sample of 2 of 5" in str(found)


def test_without_deep_images_nothing_is_found(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(COLOURS))
    (tmp_path / "b.tif").write_bytes(encode(GREY.astype(np.float32) / 255, "TIFF"))
    assert find_bit_depth([str(tmp_path / "a.png"), str(tmp_path / "b.tif")], 2) is None
    assert find_bit_depth([], 2) is None


def test_heic():
    module = pytest.importorskip("pillow_heif")
    smooth = cv2.resize(COLOURS[:3, :4], (64, 48))
    file = io.BytesIO()
    module.from_pillow(Image.fromarray(smooth)).save(file, quality=95)
    contents = file.getvalue()
    assert decode(contents).shape == (48, 64, 3)
    assert np.abs(decode(contents).astype(int) - smooth).mean() < 8
    assert read_header(contents).form == "HEIF"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC, which needs pillow_heif; run pip .*\[heic\]"):
        open_image(b"\0\0\0\x18ftypheic")


def test_avif():
    from PIL import features

    if "avif" not in features.modules or not features.check("avif"):  # Pillow 11.0 has no such name
        pytest.skip("this Pillow does not write AVIF")
    smooth = cv2.resize(COLOURS[:3, :4], (64, 48))
    contents = encode(smooth, "AVIF")
    assert np.abs(decode(contents).astype(int) - smooth).mean() < 12
