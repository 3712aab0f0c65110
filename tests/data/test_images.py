"""Resizing and augmentation, against Pillow and against what their docstrings say."""

import io

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.data import images
from mlcls_jax.data.tensorflow_cpu import tf


def noise(height: int = 13, width: int = 17) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def smooth(height: int, width: int) -> Image.Image:
    return noise(8, 8).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


JPEG = encode(smooth(60, 80), "JPEG")
FILES = [
    JPEG,
    encode(smooth(40, 30).convert("L"), "JPEG"),
    encode(noise().quantize(32), "PNG"),
    encode(noise().quantize(32), "GIF"),
    encode(noise().quantize(32), "BMP"),
]


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
    def make(seed):
        return images.train_picture(JPEG, seed, min_scale=0.25, flip=True, **options)

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
    train = images.train_picture(
        JPEG,
        [0, 1],
        size=32,
        train_resize="squash",
        min_scale=1.0,
        flip=False,
        interpolation="bicubic",
    )
    evaluated = images.eval_picture(JPEG, size=32, eval_resize="squash", interpolation="bicubic")
    np.testing.assert_array_equal(train, evaluated)


@pytest.mark.parametrize("eval_resize", ["squash", "center_crop"])
def test_eval_picture_in_graph_is_the_eager_one(eval_resize):
    def make(contents):
        return images.eval_picture(
            contents, size=32, eval_resize=eval_resize, interpolation="bicubic"
        )

    pictures = tf.data.Dataset.from_tensor_slices(FILES).map(make)
    assert pictures.element_spec == tf.TensorSpec([32, 32, 3], tf.uint8)
    for contents, picture in zip(FILES, pictures.as_numpy_iterator(), strict=True):
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
        images.eval_picture(JPEG, size=8, eval_resize="fit", interpolation="bicubic")
    with pytest.raises(ValueError, match="interpolation 'cubic' is unknown; use"):
        images.resize(np.zeros((4, 4, 3), np.uint8), 8, interpolation="cubic")
