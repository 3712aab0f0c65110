"""Every loader yields the stream of the threads: order, crops, mirroring, and skipped images."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from mlcls_jax.config import Augment
from mlcls_jax.data.images.bad_images import BadImages
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import (
    Reader,
    Rows,
    batch_filenames,
    eval_batches,
    tf_module,
    train_batches,
)
from mlcls_jax.data.readers.storage import Part
from mlcls_jax.data.sampling import Repeats

pytestmark = pytest.mark.reference

LOADERS = ("tf_data", "grain")
ROWS = Rows(8, 0, 8)
CROP = Augment(train_resize="random_crop", min_scale=0.3)
IMAGES = 30


def encoded(index: int) -> tuple[str, bytes]:
    """An image of one of the kinds that photographs come in, and its file name."""
    rng, file = np.random.default_rng(index), io.BytesIO()
    photograph = Image.fromarray(load_sample_images().images[index % 2])
    width, height = (int(side) for side in rng.integers(60, 400, 2))
    left, top = (int(start) for start in rng.integers(0, 200, 2))
    image = photograph.crop((left, top, left + width, top + height))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = index % 8 + 1, "a maker"
    kind = ("plain", "oriented", "grey", "progressive", "png", "cmyk", "misnamed")[index % 7]
    options = {"exif": exif.tobytes()} if kind == "oriented" else {}
    if kind == "progressive":
        options["progressive"] = True
    mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    format = "PNG" if kind in ("png", "misnamed") else "JPEG"
    image.convert(mode).save(file, format, **options)
    return f"{index:02}.{'png' if kind == 'png' else 'jpg'}", file.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> LabelTable:
    folder = tmp_path_factory.mktemp("images")
    names = []
    for index in range(IMAGES):
        name, contents = encoded(index)
        (folder / name).write_bytes(contents)
        names.append(name)
    labels = np.random.default_rng(0).integers(0, 2, (IMAGES, 5)).astype(np.int8)
    return LabelTable(str(folder), tuple(names), labels, tuple("abcde"))


def batches(table, loader, first=0, last=8, rows=ROWS, augment=CROP, seed=0, bad=None, size=64):
    reader = Reader(loader=loader, threads=2, bad=BadImages() if bad is None else bad)
    options = {"rows": rows, "size": size, "augment": augment, "seed": seed, "reader": reader}
    return list(train_batches(table, first_step=first, last_step=last, **options))


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Each image is within a level on 99 % of its values, or as like as 40 dB."""
    difference = np.abs(ours.astype(int) - theirs)
    within = (difference <= 1).mean(axis=(1, 2, 3)) >= 0.99
    square = (difference.astype(float) ** 2).mean(axis=(1, 2, 3))
    assert (within | (10 * np.log10(255**2 / np.maximum(square, 1e-9)) >= 40)).all()


def assert_same_stream(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.label, other.label)
        np.testing.assert_array_equal(one.position, other.position)
        assert_close(one.image, other.image)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("loader", LOADERS)
def test_a_run_and_its_continuation_have_the_batches_of_the_threads(table, loader, seed):
    expected = batches(table, "threads", seed=seed)
    assert_same_stream(batches(table, loader, seed=seed), expected)
    assert_same_stream(batches(table, loader, first=5, seed=seed), expected[5:])
    squash = Augment()
    assert_same_stream(
        batches(table, loader, augment=squash, seed=seed, size=160),
        batches(table, "threads", augment=squash, seed=seed, size=160),
    )


@pytest.mark.parametrize("symmetry", ["none", "h", "hv", "d4"])
@pytest.mark.parametrize("resize", ["squash", "random_crop", "center_crop", "letterbox"])
@pytest.mark.parametrize("loader", LOADERS)
def test_every_symmetry_and_resizing_is_that_of_the_threads(table, loader, resize, symmetry):
    augment = Augment(resize, symmetry=symmetry)
    for size in (63, 160):  # borders of an odd number of pixels; images that grow
        ours, theirs = (
            batches(table, name, last=6, augment=augment, size=size) for name in (loader, "threads")
        )
        assert_same_stream(ours, theirs)
        if loader == "grain":
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.parametrize("loader", LOADERS)
def test_soft_labels_are_those_of_the_threads(table, loader):
    soft = replace(table, targets=table.labels * np.float32(0.5) + np.float32(0.2))
    assert_same_stream(batches(soft, loader), batches(soft, "threads"))


@pytest.mark.parametrize("loader", LOADERS)
def test_repeated_images_are_those_of_the_threads(table, loader):
    repeats = Repeats(np.where(np.arange(IMAGES) < 4, 8.0, 1.0))
    uneven = replace(table, repeats=repeats)
    for augment in (CROP, Augment(erase=1.0)):  # random numbers before and after decoding
        expected = batches(uneven, "threads", augment=augment)
        assert_same_stream(batches(uneven, loader, augment=augment), expected)
        assert_same_stream(batches(uneven, loader, first=5, augment=augment), expected[5:])


@pytest.mark.parametrize("loader", LOADERS)
def test_two_processes_share_the_batches_of_one(table, loader):
    halves = [batches(table, loader, rows=Rows(8, start, 4)) for start in (0, 4)]
    for whole, low, high in zip(batches(table, "threads"), *halves, strict=True):
        np.testing.assert_array_equal(whole.label, np.concatenate([low.label, high.label]))
        assert_close(whole.image, np.concatenate([low.image, high.image]))


@pytest.mark.parametrize("resize", ["squash", "center_crop", "letterbox"])
@pytest.mark.parametrize("loader", LOADERS)
def test_evaluation_has_the_images_of_the_threads(table, loader, resize):
    augment = Augment(eval_resize=resize)
    for rows in (ROWS, Rows(16, 8, 8)):
        ours, theirs = (
            list(
                eval_batches(
                    table.paths, rows=rows, size=64, augment=augment, reader=Reader(loader=name)
                )
            )
            for name in (loader, "threads")
        )
        assert_close(np.concatenate(ours), np.concatenate(theirs))
        assert not ours[-1][-1].any()  # beyond the last image


@pytest.fixture
def damaged(table, tmp_path):
    """A copy of the images, three of which cannot be read."""
    (tmp_path / "images").mkdir()
    for path, name in zip(table.paths, table.filenames, strict=True):
        (tmp_path / "images" / name).write_bytes(Path(path).read_bytes())
    (tmp_path / "images/03.jpg").write_bytes(encoded(3)[1][:900])  # ends too early
    (tmp_path / "images/09.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / "images/15.jpg").unlink()
    return replace(table, folder=str(tmp_path / "images"))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("loader", LOADERS)
def test_the_same_images_are_skipped_and_replaced(damaged, loader, seed):
    skipped = {name: BadImages(skip=True, limit=3) for name in (loader, "threads")}
    ours, theirs = (batches(damaged, name, seed=seed, bad=bad) for name, bad in skipped.items())
    assert_same_stream(ours, theirs)
    assert skipped[loader].reasons == skipped["threads"].reasons
    assert len(skipped[loader]) == 3


@pytest.mark.parametrize("loader", LOADERS)
def test_skipped_images_are_black_in_evaluation(damaged, loader):
    ours, theirs = (
        np.concatenate(
            list(
                eval_batches(
                    damaged.paths,
                    rows=ROWS,
                    size=64,
                    augment=Augment(),
                    reader=Reader(loader=name, bad=BadImages(skip=True, limit=3)),
                )
            )
        )
        for name in (loader, "threads")
    )
    assert_close(ours, theirs)
    assert [index for index in range(IMAGES) if not ours[index].any()] == [3, 9, 15]


@pytest.mark.parametrize("loader", LOADERS)
def test_an_unreadable_image_is_named(damaged, loader):
    with pytest.raises(ValueError, match=r"(03|09|15)\.jpg cannot be read: .*on_bad_image=skip"):
        batches(damaged, loader)


@pytest.mark.parametrize("loader", LOADERS)
def test_an_image_with_too_many_pixels_is_named(table, loader):
    reader = Reader(loader=loader, pixels=PixelFormat(50 * 50))
    with pytest.raises(ValueError, match=r"more than data\.max_pixels = 2,500"):
        list(eval_batches(table.paths, rows=ROWS, size=32, augment=CROP, reader=reader))


@pytest.mark.parametrize("loader", LOADERS)
def test_changes_of_pixels_are_those_of_the_threads(table, loader):
    """PNGs are decoded by the same code in every loader, so their images are equal."""
    lossless = table.take([index for index in range(IMAGES) if index % 7 in (4, 6)])
    changed = replace(CROP, hue=0.1, rand_augment=2, cutout=0.3, erase=0.5)
    ours, theirs = (batches(lossless, name, augment=changed) for name in (loader, "threads"))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_continued_run_reads_only_its_own_images(table, loader, monkeypatch):
    read = count_reads(monkeypatch, loader)
    batches(table, loader, last=2)
    assert len(read) == 16
    read.clear()
    batches(table, loader, first=6, last=8)
    names = batch_filenames(table, 6, 8, seed=0) + batch_filenames(table, 7, 8, seed=0)
    assert sorted(Path(path).name for path in read) == sorted(names)


def count_reads(monkeypatch, loader: str) -> list[str]:
    from mlcls_jax.data.images import image_source, reading

    read = []

    def counted(path):
        read.append(path)
        return reading.read_file(path)

    if loader == "tf_data":  # its own operation cannot be watched
        files = tf_module("tf_files")
        monkeypatch.setattr(files, "is_native", lambda path: False)
        monkeypatch.setattr(files, "read_file", counted)
    else:
        monkeypatch.setattr(image_source, "read_file", counted)
    return read


@pytest.mark.parametrize("loader", LOADERS)
def test_images_inside_shards_are_read(table, loader, tmp_path):
    shard, sources = tmp_path / "shard", {}
    with shard.open("wb") as file:
        for name, path in zip(table.filenames, table.paths, strict=True):
            contents = Path(path).read_bytes()
            sources[name] = Part(path, str(shard), file.tell(), len(contents))
            file.write(contents)
    packed = replace(table, sources=sources)
    assert_same_stream(batches(packed, loader), batches(table, "threads"))
    shard.write_bytes(shard.read_bytes()[:-1000])  # the last image is cut off
    bad = BadImages(skip=True, limit=1)
    batches(packed, loader, bad=bad)
    assert [Path(path).name for path in bad.reasons] == [table.filenames[-1]]


def test_tables_of_paths_are_made_once(damaged, monkeypatch):
    """Not for each evaluation, nor for each image that TensorFlow cannot read."""
    files, made = tf_module("tf_files"), []
    make = files._made
    monkeypatch.setattr(files, "_made", lambda paths: made.append(len(paths)) or make(paths))
    reader = Reader(loader="tf_data", bad=BadImages(skip=True, limit=3))
    options = {"rows": ROWS, "size": 64, "augment": Augment(), "reader": reader}
    for _ in range(2):
        list(eval_batches(damaged.paths, **options))
        list(train_batches(damaged, first_step=0, last_step=8, seed=0, **options))
    assert made == [IMAGES] and len(reader.bad) == 3
    list(eval_batches(damaged.take(range(9)).paths, **options))
    assert made == [IMAGES, 9]


def test_tensorflow_makes_the_batches_itself(table, monkeypatch):
    """A batch that fails is made by threads, which must not hide that all fail."""
    tf_data = tf_module("tf_data")
    jpegs = table.take([index for index in range(IMAGES) if index % 7 in (0, 1, 2, 3)])

    def fail(*_, **__):
        raise AssertionError("the threads made a batch")

    monkeypatch.setattr(tf_data.threads, "train_batches", fail)
    assert len(batches(jpegs, "tf_data")) == 8


def test_failures_without_a_bad_image_end_the_run(table, monkeypatch):
    tf_data = tf_module("tf_data")
    import tensorflow as tf

    def fail(*_):
        raise tf.errors.UnavailableError(None, None, "the moon is full")

    monkeypatch.setattr(tf_data, "_datasets", fail)
    monkeypatch.setattr(tf_data, "_refused", lambda *_: frozenset())
    with pytest.raises(ValueError, match=r"the moon is full.*set data\.loader=threads"):
        batches(table, "tf_data")
