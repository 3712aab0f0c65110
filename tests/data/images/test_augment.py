"""Augmentation: operations equal those of Pillow, as timm calls it, draws follow the docstrings."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_image

from mlcls_jax.config import Augment
from mlcls_jax.data.images import augment as ours
from mlcls_jax.data.images.augment import OPERATIONS, change_pixels, random_operation
from mlcls_jax.data.sampling import generator

SIZE = 96
PHOTOGRAPH = np.ascontiguousarray(load_sample_image("china.jpg")[100 : 100 + SIZE, 80 : 80 + SIZE])
DULL = PHOTOGRAPH // 3 + np.array([20, 60, 90], np.uint8)
FLAT = np.full((SIZE, SIZE, 3), [7, 200, 31], np.uint8)
EVERYTHING = Augment(
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    rand_augment=2,
    cutout=0.5,
    erase=0.5,
)
IDENTITY_AT_0 = [i for i in range(14) if i not in (1, 2)]  # AutoContrast and Equalize


def timm_operations():
    """Returns timm's operations, loaded from their file because its package would import torch."""
    package = importlib.util.find_spec("timm")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "data/auto_augment.py"
    spec = importlib.util.spec_from_file_location("timm_auto_augment", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hue_by_pillow(image: Image.Image, shift: float) -> Image.Image:
    hue, *others = image.convert("HSV").split()
    turned = hue.point([(level + round(256 * shift)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, *others)).convert("RGB")


def smoothed_by_pillow(image: Image.Image, factor: float) -> Image.Image:
    return Image.blend(image.filter(ImageFilter.SMOOTH), image, factor)


# Ours, the reference, and the tolerance: Pillow rounds down, ours rounds to the nearest.
COLORS = [
    (lambda x: ours.brightness(x, 1.6), lambda x: ImageEnhance.Brightness(x).enhance(1.6), 1),
    (lambda x: ours.brightness(x, 0.3), lambda x: ImageEnhance.Brightness(x).enhance(0.3), 1),
    (lambda x: ours.contrast(x, 1.7), lambda x: ImageEnhance.Contrast(x).enhance(1.7), 2),
    (lambda x: ours.contrast(x, 0.2), lambda x: ImageEnhance.Contrast(x).enhance(0.2), 2),
    (lambda x: ours.saturation(x, 1.9), lambda x: ImageEnhance.Color(x).enhance(1.9), 2),
    (lambda x: ours.saturation(x, 0.1), lambda x: ImageEnhance.Color(x).enhance(0.1), 2),
    (lambda x: ours.sharpness(x, 1.9), lambda x: smoothed_by_pillow(x, 1.9), 2),
    (lambda x: ours.sharpness(x, 0.1), lambda x: ImageEnhance.Sharpness(x).enhance(0.1), 2),
    (lambda x: ours.hue(x, 0.1), lambda x: hue_by_pillow(x, 0.1), 12),
    (lambda x: ours.hue(x, -0.5), lambda x: hue_by_pillow(x, -0.5), 12),
    (ours.auto_contrast, ImageOps.autocontrast, 1),
    (ours.equalize, ImageOps.equalize, 0),
    *((lambda x, n=n: ours.posterize(x, n), lambda x, n=n: ImageOps.posterize(x, n), 0)
      for n in (4, 7, 8)),
    *((lambda x, n=n: ours.solarize(x, n), lambda x, n=n: ImageOps.solarize(x, n), 0)
      for n in (0, 26, 255, 256)),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(COLORS)))
@pytest.mark.parametrize("image", [PHOTOGRAPH, DULL, FLAT], ids=["photograph", "dull", "flat"])
def test_colour_operations_equal_pillow(case, image):
    operation, reference, tolerance = COLORS[case]
    expected = np.asarray(reference(Image.fromarray(image)))
    np.testing.assert_allclose(operation(image).astype(int), expected, rtol=0, atol=tolerance)


def moved_by_pillow(image: Image.Image, matrix: tuple[float, ...], **options) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, **options)


def by_timm(name: str, amount: float):
    return lambda image, **options: getattr(timm_operations(), name)(image, amount, **options)


# Ours, the same by Pillow, and by timm.
MOVES = [
    (
        lambda x: ours.rotate(x, 27),
        lambda x, **options: x.rotate(27, **options),
        by_timm("rotate", 27),
    ),
    (
        lambda x: ours.shear(x, across=-0.27),
        lambda x, **options: moved_by_pillow(x, (1, -0.27, 0, 0, 1, 0), **options),
        by_timm("shear_x", -0.27),
    ),
    (
        lambda x: ours.shear(x, down=0.27),
        lambda x, **options: moved_by_pillow(x, (1, 0, 0, 0.27, 1, 0), **options),
        by_timm("shear_y", 0.27),
    ),
    (
        lambda x: ours.translate(x, across=0.45),
        lambda x, **options: moved_by_pillow(x, (1, 0, 0.45 * SIZE, 0, 1, 0), **options),
        by_timm("translate_x_rel", 0.45),
    ),
    (
        lambda x: ours.translate(x, down=-0.3),
        lambda x, **options: moved_by_pillow(x, (1, 0, 0, 0, 1, -0.3 * SIZE), **options),
        by_timm("translate_y_rel", -0.3),
    ),
]
FILL = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}


@pytest.mark.parametrize("case", range(len(MOVES)))
def test_geometric_operations_equal_those_of_pillow(case):
    """Equal to 1/32 of a pixel, except next to the edge of the uncovered area."""
    operation, reference, _ = MOVES[case]
    expected = np.asarray(reference(Image.fromarray(PHOTOGRAPH), **FILL)).astype(int)
    found = operation(PHOTOGRAPH)
    difference = np.abs(found - expected).max(axis=-1)
    assert np.mean(difference > 4) < 0.02
    assert np.mean((found == 128).all(axis=-1)) > 0.05


@pytest.mark.reference
@pytest.mark.parametrize("case", range(len(MOVES)))
def test_timm_calls_pillow_in_this_way(case):
    _, by_pillow, theirs = MOVES[case]
    moved = [reference(Image.fromarray(PHOTOGRAPH), **FILL) for reference in (by_pillow, theirs)]
    np.testing.assert_array_equal(*moved)


def test_magnitude_0_changes_nothing_except_for_two_operations():
    for i in IDENTITY_AT_0:
        np.testing.assert_array_equal(OPERATIONS[i](PHOTOGRAPH, 0.0), PHOTOGRAPH, str(i))


@pytest.mark.parametrize("level", [-1.0, -0.3, 0.9, 1.0])
@pytest.mark.parametrize("image", [PHOTOGRAPH, FLAT, FLAT[:1, :1]], ids=["photo", "flat", "pixel"])
def test_operations_keep_the_shape_and_do_not_modify_the_image(level, image):
    before = image.copy()
    image.flags.writeable = False  # like an image of the cache
    for operation in OPERATIONS:
        found = operation(image, level)
        assert (found.shape, found.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)


def test_the_operations_of_the_largest_magnitude_are_all_different():
    found = {operation(DULL, 1.0).tobytes() for operation in OPERATIONS}
    assert len(found) == len(OPERATIONS) == 14


def test_operations_and_directions_are_equally_probable(monkeypatch):
    drawn = []
    names = range(len(OPERATIONS))
    recorders = tuple(lambda image, level, i=i: drawn.append((i, level)) for i in names)
    monkeypatch.setattr(ours, "OPERATIONS", recorders)
    rng = np.random.default_rng(0)
    for _ in range(7000):
        random_operation(PHOTOGRAPH, rng, 4.5)
    which, levels = np.array(drawn).T
    np.testing.assert_allclose(np.bincount(which.astype(int)), 500, atol=100)
    assert set(levels) == {-0.45, 0.45}
    assert abs(levels.mean()) < 0.02


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.6, 1.4),
        ("hue", -0.4, 0.4),
    ],
)
def test_jitter_is_uniform_in_its_range(field, low, high, monkeypatch):
    drawn = []
    monkeypatch.setattr(ours, field, lambda image, by: drawn.append(by) or image)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        change_pixels(PHOTOGRAPH, rng, Augment(**{field: 0.4}))
    assert low <= min(drawn) < low + 0.01 and high - 0.01 < max(drawn) <= high
    np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.5]), [low + 0.2, low + 0.4], atol=0.03)


def test_cutout_is_a_square_of_one_colour_that_may_be_cut_off():
    heights = []
    for index in range(400):
        found = change_pixels(PHOTOGRAPH, generator(0, 0, index), Augment(cutout=0.5))
        rows, columns = np.nonzero((found != PHOTOGRAPH).any(axis=-1))
        square = found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert len(np.unique(square.reshape(-1, 3), axis=0)) == 1
        heights.append(square.shape[0])
    assert max(heights) == SIZE // 2
    # The centre is uniform in the image, so half of the squares are cut off at the top or bottom.
    assert 0.4 < np.mean(np.array(heights) < SIZE // 2) < 0.6
    assert min(heights) >= SIZE // 4 - 1


def test_a_rectangle_is_erased_as_often_and_as_large_as_stated():
    shares, rows_of, ratios = [], [], []
    for index in range(1500):
        found = change_pixels(PHOTOGRAPH, generator(1, 0, index), Augment(erase=0.5))
        if found is PHOTOGRAPH:
            continue
        rows, columns = np.nonzero((found != PHOTOGRAPH).any(axis=-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        shares.append(height * width / SIZE**2)
        ratios.append(height / width)
        rows_of.append(rows.mean() / SIZE)
        assert len(rows) > 0.99 * height * width  # noise hits the old colour now and then
    assert 0.45 < len(shares) / 1500 < 0.55
    assert 0.019 < min(shares) < 0.03 and 0.35 < max(shares) < 0.41
    assert 0.28 < min(ratios) < 0.4 and 2.8 < max(ratios) < 3.5
    np.testing.assert_allclose(np.mean(rows_of), 0.5, atol=0.03)


def test_without_augmentation_the_image_is_returned_and_nothing_is_drawn():
    rng = generator(0, 0, 0)
    assert change_pixels(PHOTOGRAPH, rng, Augment()) is PHOTOGRAPH
    assert rng.random() == generator(0, 0, 0).random()


def test_the_result_is_a_function_of_the_generator():
    def make(index: int) -> bytes:
        return change_pixels(PHOTOGRAPH, generator(3, 1, index), EVERYTHING).tobytes()

    first = [make(index) for index in range(20)]
    assert [make(index) for index in reversed(range(20))] == first[::-1]
    assert len(set(first)) == 20
    other = change_pixels(PHOTOGRAPH, generator(3, 1, 0), replace(EVERYTHING, hue=0.0))
    assert other.tobytes() != first[0]
