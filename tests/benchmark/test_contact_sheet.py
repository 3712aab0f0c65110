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
    assert sheet.describe_labels(np.array([0.004]), ("cat",)) == "cat <0.01"


def test_letters_that_the_font_lacks_are_drawn_without_their_accents():
    font = sheet.ImageFont.load_default(sheet.LINE - 3)  # Pillow's own has English letters only
    assert sheet._drawable("Bu\u0308ro, Straße, Öl, 日", font) == "Buro, Strasse, Ol, ?"


def test_labels_that_wrap_lose_no_comma_and_a_long_name_shows_its_end():
    font = sheet.ImageFont.load_default(sheet.LINE - 3)
    text = "zero, one, two, three, four, five, six"
    lines = list(sheet._wrap(text, font, 60))
    assert len(lines) > 2 and " ".join(lines) == text
    assert all(font.getlength(line) <= 60 for line in lines)
    name = sheet._fit("folder/of/photos/IMG_0123.jpg", font, 80)
    assert name.startswith("…") and name.endswith("0123.jpg") and font.getlength(name) <= 80
    assert sheet._fit("a.jpg", font, 80) == "a.jpg"


def test_images_are_drawn_in_the_order_of_the_batch():
    images = np.stack([np.full((40, 40, 3), shade, np.uint8) for shade in range(0, 240, 30)])
    drawn = np.asarray(sheet.draw_grid(images, ["none"] * 8, ["a.jpg"] * 8))
    for index in range(8):
        row, column = divmod(index, sheet.COLUMNS)
        height = 40 + 2 * sheet.LINE + sheet.GAP
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
    names = [f"{number}.jpg" for number in range(4)]
    sheet.contact_sheet(Augment(mixup=mixup), 0, batch, ("cat", "dog"), names)
    images, texts, shown = seen["drawn"]
    assert shown == names
    assert images.dtype == np.uint8
    assert (images == batch.image).all() == (not mixup)
    assert any("0." in text for text in texts) == bool(mixup)
