"""Resizing and cropping, compared with Pillow and with their docstrings."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from mlcls_jax.config import Augment
from mlcls_jax.data.images.augment import change_pixels
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.symmetry import turned
from mlcls_jax.data.images.transforms import (
    PADDING,
    Box,
    center_box,
    eval_image,
    letterbox,
    random_box,
    resize,
    seen_box,
    shrink,
    train_image,
    uniforms_needed,
)
from mlcls_jax.data.sampling import image_random

PHOTOGRAPHS = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]  # 427 x 640
INTERPOLATIONS = ("bilinear", "bicubic")


def noise(height: int = 13, width: int = 17) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def smooth(height: int, width: int) -> Image.Image:
    return noise(8, 8).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


JPEG = encode(smooth(60, 80), "JPEG")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    return 10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2))


# One photograph with many edges and one with few; the documentation has figures of many.
@pytest.mark.parametrize(
    ("size", "least"), [(128, 29), (224, 32), (260, 34), (300, 38), (380, 36), (456, 41)]
)
@pytest.mark.parametrize("reference", ["BILINEAR", "BICUBIC"])
def test_images_are_like_full_decoding_with_an_antialiased_resize(size, least, reference):
    values = []
    for pixels in PHOTOGRAPHS:
        contents = encode(Image.fromarray(pixels), "JPEG", quality=90)
        with Image.open(io.BytesIO(contents)) as image:
            expected = np.asarray(image.resize((size, size), Image.Resampling[reference]))
        values.append(
            psnr(eval_image(open_image(contents), size=size, augment=Augment()), expected)
        )
    assert np.mean(values) > least, values


@pytest.mark.parametrize("shape", [(2000, 1500), (900, 100), (40, 3000)])
def test_strong_shrinking_averages(shape):
    image = noise(*shape)
    resized = resize(np.asarray(image), 32)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BOX))
    assert np.std(resized) < 1.3 * np.std(expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_enlarging_equals_pillow(interpolation):
    image = smooth(40, 30)
    expected = image.resize((64, 64), Image.Resampling[interpolation.upper()])
    assert psnr(resize(np.asarray(image), 64, interpolation), np.asarray(expected)) > 45


def test_resize_writes_to_out():
    image, out = np.asarray(smooth(50, 60)), np.zeros((2, 32, 32, 3), np.uint8)
    assert np.shares_memory(resize(image, 32, out=out[1]), out)
    np.testing.assert_array_equal(out[1], resize(image, 32))
    assert not out[0].any()


@pytest.mark.parametrize("shape", [(300, 200), (201, 333), (1, 1), (5, 900)])
def test_center_box_is_that_of_the_reference(shape):
    side = max(int(224 / 256 * min(shape)), 1)
    top, left = (shape[0] - side + 1) // 2, (shape[1] - side + 1) // 2
    assert center_box(*shape, 224) == Box(top, left, side, side)


def drawn(key, contents, size, augment, out=None):
    """A training image of (seed, epoch, index)."""
    random = image_random(*key, uniforms_needed(augment))
    return train_image(open_image(contents), random, size=size, augment=augment, out=out)


def test_crops_have_the_stated_distribution():
    height, width = 400, 600
    found = [
        random_box(height, width, image_random(7, 0, i, 40).uniforms, 0.25) for i in range(3000)
    ]
    top, left, rows, columns = np.array(
        [(box.top, box.left, box.height, box.width) for box in found]
    ).T
    share, aspect = rows * columns / (height * width), columns / rows
    assert min(top) >= 0 and max(top + rows) <= height and max(left + columns) <= width
    assert 0.24 <= share.min() <= 0.27 and share.max() >= 0.85
    assert 0.74 <= aspect.min() <= 0.78 and 1.28 <= aspect.max() <= 1.345
    # Parts that do not fit are large ones, so the mean is not 0.625.
    rng = np.random.default_rng(0)
    drawn = rng.uniform(0.25, 1, 20_000)
    slant = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 20_000))
    # Height² and width² in units of the image's height, which is 1 while its width is 1.5.
    fits = (drawn * 1.5 / slant <= 1) & (drawn * 1.5 * slant <= 1.5**2)
    np.testing.assert_allclose(share.mean(), drawn[fits].mean(), atol=0.015)
    np.testing.assert_allclose(np.mean((top + rows / 2) / height), 0.5, atol=0.015)
    np.testing.assert_allclose(np.mean((left + columns / 2) / width), 0.5, atol=0.015)


def test_whole_crops_and_extreme_shapes():
    assert random_box(32, 32, image_random(0, 0, 0, 40).uniforms, 1.0, (1.0, 1.0)) == Box(
        0, 0, 32, 32
    )
    for shape in [(1, 1), (1, 5000), (5000, 1), (2, 3)]:
        contents = encode(noise(*shape), "PNG")
        augment = Augment(train_resize="random_crop", min_scale=0.08)
        for index in range(20):
            crop = drawn((0, 0, index), contents, 16, augment)
            assert crop.shape == (16, 16, 3)


def test_a_shape_that_never_fits_gives_the_largest_central_crop():
    width = round(40 * 4 / 3)
    found = random_box(40, 400, image_random(1, 0, 2, 40).uniforms, 0.9)
    assert found == Box(0, (400 - width) // 2, 40, width)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_crop_of_a_scaled_image_is_the_crop_of_the_whole(interpolation):
    """A JPEG is decoded at a fraction and a PNG whole, with the same part of both."""
    photograph = Image.fromarray(PHOTOGRAPHS[0]).resize((1280, 960))
    augment = Augment("random_crop", interpolation=interpolation, min_scale=0.5)
    files = encode(photograph, "PNG"), encode(photograph, "JPEG", quality=95)
    for index in range(8):
        whole, part = (drawn((0, 0, index), contents, 96, augment) for contents in files)
        shifted = psnr(whole[:, 1:], whole[:, :-1])
        assert psnr(whole, part) > shifted + 2


def test_half_of_the_images_are_mirrored():
    contents = encode(noise(2, 3), "PNG")
    straight = eval_image(open_image(contents), size=8, augment=Augment())
    images = [drawn((3, 0, index), contents, 8, Augment()) for index in range(400)]
    flipped = [not np.array_equal(image, straight) for image in images]
    assert 160 <= sum(flipped) <= 240
    np.testing.assert_array_equal(images[flipped.index(True)], straight[:, ::-1])
    never = drawn((3, 0, 1), contents, 8, Augment(symmetry="none"))
    np.testing.assert_array_equal(never, straight)


@pytest.mark.parametrize("train_resize", ["squash", "random_crop"])
def test_train_images_are_a_function_of_the_generator(train_resize):
    def make():
        augment = Augment(train_resize, min_scale=0.25)
        return [drawn((5, 1, index), JPEG, 32, augment) for index in range(8)]

    first = make()
    np.testing.assert_array_equal(first, make())
    distinct = len({image.tobytes() for image in first})
    assert distinct == (8 if train_resize == "random_crop" else 2)


@pytest.mark.parametrize("given", [True, False], ids=["out", "new"])
def test_augmentation_follows_the_crop_and_does_not_change_its_draws(given):
    plain = Augment("random_crop", min_scale=0.25)
    changed = dataclasses.replace(plain, contrast=0.5, rand_augment=2, cutout=0.5, erase=0.5)
    for index in range(6):
        out = np.zeros((32, 32, 3), np.uint8) if given else None
        crop = drawn((5, 1, index), JPEG, 32, plain)
        found = drawn((5, 1, index), JPEG, 32, changed, out)
        rng = image_random(5, 1, index, uniforms_needed(changed)).rest()
        assert out is None or found is out
        np.testing.assert_array_equal(found, change_pixels(crop, rng, changed))


def test_center_crop_is_the_middle():
    contents = encode(Image.fromarray(PHOTOGRAPHS[1]), "PNG")
    box = center_box(427, 640, 64)
    middle = PHOTOGRAPHS[1][box.top : box.top + box.height, box.left : box.left + box.width]
    cropped = eval_image(open_image(contents), size=64, augment=Augment(eval_resize="center_crop"))
    np.testing.assert_array_equal(cropped, resize(middle, 64))


@pytest.mark.parametrize("shape", [(120, 90), (33, 100), (64, 64), (200, 24)])
@pytest.mark.parametrize("size", [64, 65])
def test_a_letterbox_is_the_whole_image_between_grey_borders(shape, size):
    """Pillow's ImageOps.contain gives it the same sides."""
    image = smooth(*shape)
    found = drawn((0, 0, 0), encode(image, "PNG"), size, Augment("letterbox", symmetry="none"))
    inner = letterbox(*shape, size)
    expected = ImageOps.contain(image, (size, size), Image.Resampling.BOX)
    assert (inner.width, inner.height) == expected.size
    bottom, right = inner.top + inner.height, inner.left + inner.width
    assert 0 <= size - bottom - inner.top <= 1 and 0 <= size - right - inner.left <= 1
    border = np.ones((size, size), bool)
    border[inner.top : bottom, inner.left : right] = False
    assert (found[border] == PADDING).all()
    part = found[inner.top : bottom, inner.left : right].astype(int)
    assert np.abs(part - expected).mean() < 6
    narrow = letterbox(300, 1, size)
    assert (narrow.height, narrow.width) == (size, 1)


@pytest.mark.parametrize("how", ["squash", "center_crop", "letterbox"])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (50, 50), (1, 400)])
def test_the_seen_box_is_the_part_of_the_image_that_fills_the_square(how, shape):
    """The values of an image are its coordinates, so a square tells which parts it shows."""
    size = 32
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    steps = [256 // max(shape) or 0.5] * 2
    image = np.stack([rows * steps[0], columns * steps[1], np.full(shape, 9)], -1).astype(np.uint8)
    contents = encode(Image.fromarray(image), "PNG")
    square = eval_image(open_image(contents), size=size, augment=Augment(eval_resize=how))
    box = seen_box(*shape, size, how)
    centres = (np.arange(size) + 0.5) / size
    inside = square[..., 2] == 9
    assert inside.any()
    for axis, (start, length) in enumerate(((box.top, box.height), (box.left, box.width))):
        wanted = start + centres * length - 0.5
        wanted = wanted.clip(0, shape[axis] - 1)
        wanted = wanted[:, None] if axis == 0 else wanted[None]
        apart = np.abs(square[..., axis] / steps[axis] - wanted)[inside]
        assert apart.max() <= max(1, 0.75 * length / size), (how, axis)


@pytest.mark.parametrize("symmetry", ["none", "h", "hv", "d4"])
@pytest.mark.parametrize("how", ["squash", "center_crop", "letterbox", "random_crop"])
@pytest.mark.parametrize("given", [True, False], ids=["out", "new"])
def test_training_images_are_the_symmetric_images_of_the_plain_one(how, symmetry, given):
    count, found = {"none": 1, "h": 2, "hv": 4, "d4": 8}[symmetry], set()
    augment = Augment(how, symmetry=symmetry)
    for index in range(48):
        out = np.zeros((33, 33, 3), np.uint8) if given else None
        image = drawn((3, 0, index), JPEG, 33, augment, out)
        assert out is None or image is out
        plain = Augment(how, symmetry="none")
        random = image_random(3, 0, index, uniforms_needed(augment))
        random = dataclasses.replace(random, uniforms=random.uniforms[count > 1 :])
        straight = train_image(open_image(JPEG), random, size=33, augment=plain)
        turns = [t for t in range(8) if np.array_equal(turned(straight, t), image)]
        assert len(turns) == 1
        found.update(turns)
    assert found == set(range(count))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("side", "shape"), [(128, (128, 192)), (427, (427, 640)), (900, (427, 640))]
)
def test_the_short_side_shrinks_and_never_grows(form, side, shape):
    pixels = PHOTOGRAPHS[0]
    shrunk = shrink(open_image(encode(Image.fromarray(pixels), form)), side)
    expected = Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BOX)
    assert shrunk.shape == (*shape, 3)
    assert np.abs(shrunk.astype(int) - expected).mean() < 8


def test_overshoot_is_clipped_not_wrapped():
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 255
    assert (np.diff(resize(step, 64, "bicubic")[0, :, 0].astype(int)) >= 0).all()


def test_unknown_interpolation_is_named():
    with pytest.raises(ValueError, match="interpolation 'cubic' is unknown; use"):
        resize(np.zeros((4, 4, 3), np.uint8), 8, "cubic")
