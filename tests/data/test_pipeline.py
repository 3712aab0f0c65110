"""Order, augmentation and padding are functions of (seed, epoch, index), whoever asks."""

from pathlib import Path

import numpy as np
import pytest

from mlcls_jax.config import Augment
from mlcls_jax.data.labels import read_labels
from mlcls_jax.data.pipeline import (
    Rows,
    batch_filenames,
    eval_batches,
    local_rows,
    stream_order,
    train_batches,
)

AUGMENT = Augment(train_resize="random_crop")


@pytest.fixture(scope="module")
def table(photos):
    return read_labels(photos / "labels.csv", photos)


def batches(table, first, last, rows, seed=0):
    return list(
        train_batches(
            table, first_step=first, last_step=last, rows=rows, size=32, augment=AUGMENT, seed=seed
        )
    )


def test_every_epoch_is_another_permutation():
    orders = []
    for epoch in range(3):
        pairs = [stream_order(epoch * 41 + place, 41, seed=5) for place in range(41)]
        assert {int(e) for e, _ in pairs} == {epoch}
        orders.append([int(index) for _, index in pairs])
        assert sorted(orders[-1]) == list(range(41))
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != [int(stream_order(place, 41, seed=6)[1]) for place in range(41)]


def test_labels_and_positions_belong_to_the_named_pictures(table):
    for step, batch in enumerate(batches(table, 0, 11, Rows(8, 0, 8))):
        names = batch_filenames(table, step, 8, seed=0)
        wanted = table.labels[[table.filenames.index(name) for name in names]]
        np.testing.assert_array_equal(batch.label, wanted)
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


def test_a_picture_looks_different_in_another_epoch(table):
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


@pytest.mark.parametrize("batch_size", [16, 24, 40])
def test_evaluation_counts_each_picture_once(table, batch_size):
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


def test_unreadable_picture_is_named(table, tmp_path):
    (tmp_path / "images").mkdir()
    for path in table.paths:
        (tmp_path / "images" / path.rsplit("/", 1)[1]).write_bytes(Path(path).read_bytes())
    (tmp_path / "images" / "07.png").write_bytes(b"<html>not found</html>")
    broken = read_labels(table.folder / "labels.csv", tmp_path / "images")
    with pytest.raises(ValueError, match=r"07\.png"):
        batches(broken, 0, 5, Rows(8, 0, 8))
    with pytest.raises(ValueError, match=r"07\.png"):
        list(eval_batches(broken.paths, rows=Rows(8, 0, 8), size=32, augment=AUGMENT))


def test_batch_that_devices_cannot_share_names_the_field():
    with pytest.raises(ValueError, match=r"data\.batch_size is 12.*8 devices"):
        local_rows(12, "data.batch_size")
    assert local_rows(16, "data.batch_size") == Rows(16, 0, 16)
