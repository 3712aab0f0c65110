"""The contact sheet of a batch: positions of the images, and labels as the loss gets them."""

import numpy as np
import pytest

from mlcls_jax.benchmark import contact_sheet as sheet
from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN


def test_labels_are_described_as_the_loss_gets_them():
    row = np.array([1.0, 0.0, 0.25, UNKNOWN])
    assert sheet.describe_labels(row, ("cat", "dog", "cow", "hen")) == "cat, cow 0.25, hen?"
    assert sheet.describe_labels(np.zeros(1), ("cat",)) == "none"


def test_images_are_drawn_in_the_order_of_the_batch():
    images = np.stack([np.full((40, 40, 3), shade, np.uint8) for shade in range(0, 240, 30)])
    drawn = np.asarray(sheet.draw_grid(images, ["none"] * 8))
    for index in range(8):
        row, column = divmod(index, sheet.COLUMNS)
        height = 40 + sheet.LINE + sheet.GAP
        place = drawn[sheet.GAP + row * height + 20, sheet.GAP + column * (40 + sheet.GAP) + 20]
        assert place.tolist() == [30 * index] * 3


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_a_batch_is_drawn_with_the_mixup_of_its_step(mixup, monkeypatch):
    rng = np.random.default_rng(0)
    batch = Batch(
        image=rng.integers(0, 256, (4, 32, 32, 3), np.uint8),
        label=np.eye(4, 2, dtype=np.int8),
        position=np.arange(4, dtype=np.uint32),
    )
    seen = {}
    monkeypatch.setattr(sheet, "draw_grid", lambda *drawn: seen.update(drawn=drawn))
    sheet.contact_sheet(Augment(mixup=mixup), 0, batch, ("cat", "dog"))
    images, texts = seen["drawn"]
    assert images.dtype == np.uint8
    assert (images == batch.image).all() == (not mixup)
    assert any("0." in text for text in texts) == bool(mixup)
