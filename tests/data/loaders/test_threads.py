"""Batches: order, augmentation and padding are functions of (seed, epoch, index)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlcls_jax.config import Augment, Data
from mlcls_jax.data.images import image_source
from mlcls_jax.data.images.bad_images import BadImages
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.loaders.loader import (
    Reader,
    Rows,
    batch_filenames,
    eval_batches,
    local_rows,
    make_reader,
    train_batches,
)
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.sampling import Repeats

AUGMENT = Augment(train_resize="random_crop")
CHANGED = replace(AUGMENT, hue=0.1, contrast=0.4, rand_augment=2, cutout=0.3, erase=0.5)


@pytest.fixture(scope="module")
def table(photos):
    return read_labels(photos / "labels.csv", photos)


def batches(table, first, last, rows, reader=None, augment=AUGMENT):
    options = {"rows": rows, "size": 32, "augment": augment, "seed": 0, "reader": reader}
    return list(train_batches(table, first_step=first, last_step=last, **options))


def test_labels_and_positions_belong_to_the_named_images(table):
    for step, batch in enumerate(batches(table, 0, 11, Rows(8, 0, 8))):
        names = batch_filenames(table, step, 8, seed=0)
        expected = table.labels[[table.filenames.index(name) for name in names]]
        np.testing.assert_array_equal(batch.label, expected)
        np.testing.assert_array_equal(batch.position, np.arange(step * 8, step * 8 + 8))
        assert batch.image.shape == (8, 32, 32, 3) and batch.image.dtype == np.uint8


def test_starting_in_the_middle_gives_the_same_batches(table):
    whole, rest = batches(table, 0, 9, Rows(8, 0, 8)), batches(table, 6, 9, Rows(8, 0, 8))
    for ours, theirs in zip(rest, whole[6:], strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)


def test_two_processes_share_the_batches_of_one(table):
    whole = batches(table, 0, 4, Rows(8, 0, 8))
    halves = zip(
        batches(table, 0, 4, Rows(8, 0, 4)), batches(table, 0, 4, Rows(8, 4, 4)), strict=True
    )
    for one, (low, high) in zip(whole, halves, strict=True):
        np.testing.assert_array_equal(one.image, np.concatenate([low.image, high.image]))
        np.testing.assert_array_equal(one.label, np.concatenate([low.label, high.label]))


def test_an_image_looks_different_in_another_epoch(table):
    first, second = batches(table, 0, 5, Rows(8, 0, 8)), batches(table, 5, 10, Rows(8, 0, 8))

    def by_name(run, start):
        return {
            name: image
            for step, batch in enumerate(run, start)
            for name, image in zip(batch_filenames(table, step, 8, 0), batch.image, strict=True)
        }

    before, after = by_name(first, 0), by_name(second, 5)
    assert before.keys() == after.keys() == set(table.filenames)
    assert sum(np.array_equal(before[name], after[name]) for name in before) < 4


def test_repeated_images_look_different_each_time_and_any_part_of_a_run_is_the_same(table):
    repeats = Repeats(np.where(np.arange(len(table)) < 5, 6.0, 1.0))
    uneven, eight = replace(table, repeats=repeats), Rows(8, 0, 8)
    whole, seen = batches(uneven, 0, 5, eight), {}
    for step, batch in enumerate(whole):
        names = batch_filenames(uneven, step, 8, seed=0)
        rows = [table.filenames.index(name) for name in names]
        np.testing.assert_array_equal(batch.label, table.labels[rows])
        for name, image in zip(names, batch.image, strict=True):
            seen.setdefault(name, []).append(image.tobytes())
    repeated = [images for images in seen.values() if len(images) > 1]
    assert [len(images) for images in seen.values() if len(images) > 2] and len(repeated) == 5
    assert sum(len(set(images)) for images in repeated) > 0.8 * sum(map(len, repeated))
    halves = [batches(uneven, 2, 5, Rows(8, start, 4)) for start in (0, 4)]
    for one, low, high in zip(whole[2:], *halves, strict=True):
        np.testing.assert_array_equal(one.image, np.concatenate([low.image, high.image]))
        np.testing.assert_array_equal(one.label, np.concatenate([low.label, high.label]))


@pytest.mark.parametrize("batch_size", [16, 24, 40])
def test_evaluation_uses_each_image_once(table, batch_size):
    half = batch_size // 2
    parts = [
        list(
            eval_batches(table.paths, rows=Rows(batch_size, start, half), size=32, augment=AUGMENT)
        )
        for start in (0, half)
    ]
    together = np.concatenate(
        [np.concatenate([low, high]) for low, high in zip(*parts, strict=True)]
    )
    alone = next(eval_batches(table.paths, rows=Rows(40, 0, 40), size=32, augment=AUGMENT))
    np.testing.assert_array_equal(together[: len(table)], alone)
    assert len(together) == -(-len(table) // batch_size) * batch_size


@pytest.mark.parametrize("augment", [AUGMENT, CHANGED], ids=["crops", "changed"])
def test_any_number_of_threads_gives_the_same(table, augment):
    one, many = (batches(table, 0, 6, Rows(8, 0, 8), Reader(threads=n), augment) for n in (1, 4))
    for ours, theirs in zip(one, many, strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)


def test_an_epoch_reads_every_image_once_and_a_resumed_one_only_the_rest(table, monkeypatch):
    read = []
    monkeypatch.setattr(
        image_source, "read_file", lambda path: read.append(path) or read_file(path)
    )
    assert len(table) == 40
    halves = [Rows(8, start, 4) for start in (0, 4)]
    for rows in halves:
        batches(table, 0, 5, rows)
    assert sorted(read) == sorted(table.paths)
    read.clear()
    for rows in halves:
        batches(table, 3, 5, rows)
    expected = batch_filenames(table, 3, 8, 0) + batch_filenames(table, 4, 8, 0)
    assert sorted(Path(path).name for path in read) == sorted(expected)
    read.clear()
    for rows in halves:
        list(eval_batches(table.paths, rows=rows, size=32, augment=AUGMENT))
    assert sorted(read) == sorted(table.paths)


@pytest.fixture
def damaged(table, tmp_path):
    """A copy of the images, two of which cannot be read."""
    (tmp_path / "images").mkdir()
    for path in table.paths:
        (tmp_path / "images" / Path(path).name).write_bytes(Path(path).read_bytes())
    (tmp_path / "images" / "07.png").write_bytes(b"<html>not found</html>")
    (tmp_path / "images" / "11.png").unlink()
    return replace(table, folder=tmp_path / "images")


def test_unreadable_image_is_named(damaged):
    message = (
        r"(07\.png cannot be read: it is HTML|11\.png cannot be read: the file does not exist)"
    )
    with pytest.raises(ValueError, match=message):
        batches(damaged, 0, 5, Rows(8, 0, 8))
    with pytest.raises(ValueError, match=r"07\.png cannot be read.*on_bad_image=skip"):
        list(eval_batches(damaged.paths, rows=Rows(8, 0, 8), size=32, augment=AUGMENT))


def test_skipped_images_are_replaced_in_training(table, damaged):
    whole = batches(table, 0, 5, Rows(8, 0, 8))
    readers = [Reader(threads=n, bad=BadImages(skip=True, limit=2)) for n in (1, 5)]
    one, many = (batches(damaged, 0, 5, Rows(8, 0, 8), reader) for reader in readers)
    replaced = []
    for step, (ours, again, before) in enumerate(zip(one, many, whole, strict=True)):
        np.testing.assert_array_equal(ours.image, again.image)
        np.testing.assert_array_equal(ours.label, again.label)
        for row, name in enumerate(batch_filenames(table, step, 8, 0)):
            if name in ("07.png", "11.png"):
                assert not np.array_equal(ours.image[row], before.image[row])
                replaced.append((ours.label[row] == table.labels).all(axis=1).any())
            else:
                np.testing.assert_array_equal(ours.image[row], before.image[row])
    assert replaced == [True, True]
    assert all(len(reader.bad) == 2 for reader in readers)


def test_skipped_images_are_black_in_evaluation(table, damaged):
    reader = Reader(bad=BadImages(skip=True, limit=2))
    options = {"rows": Rows(40, 0, 40), "size": 32, "augment": AUGMENT}
    (images,) = eval_batches(damaged.paths, reader=reader, **options)
    (before,) = eval_batches(table.paths, **options)
    for row, (path, name) in enumerate(zip(damaged.paths, table.filenames, strict=True)):
        is_bad = name in ("07.png", "11.png")
        assert (path in reader.bad) == is_bad
        np.testing.assert_array_equal(images[row], before[row] * (not is_bad))


def test_an_image_that_is_deleted_during_the_epoch(damaged):
    reader = Reader(bad=BadImages(skip=True, limit=3))
    options = {"rows": Rows(8, 0, 8), "size": 32, "augment": AUGMENT, "seed": 0, "reader": reader}
    running = train_batches(damaged, first_step=0, last_step=20, **options)
    next(running)
    (damaged.folder / "20.png").unlink()
    assert len(list(running)) == 19 and len(reader.bad) == 3


def test_the_reader_of_a_config(tmp_path):
    data = Data(on_bad_image="skip", max_bad_fraction=0.05, threads=3, max_pixels=1000)
    reader = make_reader(data, 1, 40, tmp_path / "bad.csv")
    assert (reader.workers(), reader.pixels) == (3, PixelFormat(1000, 1))
    for name in "ab":
        reader.bad.report(name, ImageError("no"))
    with pytest.raises(ValueError, match=r"max_bad_fraction"):
        reader.bad.report("c", ImageError("no"))
    with pytest.raises(ValueError, match=r"a cannot be read: no"):
        make_reader(Data(), 3, 40).bad.report("a", ImageError("no"))


def test_a_batch_that_cannot_be_split_over_devices_names_the_field():
    with pytest.raises(ValueError, match=r"data\.batch_size is 12.*8 devices"):
        local_rows(12, "data.batch_size")
    assert local_rows(16, "data.batch_size") == Rows(16, 0, 16)
