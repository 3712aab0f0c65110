"""The grid of a batch: pictures where they belong, labels as the loss takes them."""

import numpy as np
import pytest
import show_augmentation as show
from PIL import Image

from mlcls_jax.config import Augment, Config, Data, Model
from mlcls_jax.data.labels import UNKNOWN


def test_labels_read_as_the_loss_takes_them():
    row = np.array([1.0, 0.0, 0.25, UNKNOWN])
    assert show.describe(row, ("cat", "dog", "cow", "hen")) == "cat, cow 0.25, hen?"
    assert show.describe(np.zeros(1), ("cat",)) == "none"


def test_pictures_stand_in_the_order_of_the_batch():
    images = np.stack([np.full((40, 40, 3), shade, np.uint8) for shade in range(0, 240, 30)])
    sheet = np.asarray(show.draw_grid(images, ["none"] * 8))
    for number in range(8):
        row, column = divmod(number, show.COLUMNS)
        height = 40 + show.LINE + show.GAP
        place = sheet[show.GAP + row * height + 20, show.GAP + column * (40 + show.GAP) + 20]
        assert place.tolist() == [30 * number] * 3


@pytest.mark.parametrize("augment", [Augment(), Augment(flip=False, mixup=1.0)])
def test_a_batch_is_drawn(photos, tiny, augment):
    config = Config(
        data=Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=8),
        augment=augment,
        model=Model(tiny, image_size=32),
    )
    images, texts = show.batch_of(config, 6, step=1)
    assert images.shape == (6, 32, 32, 3) and images.dtype == np.uint8
    assert any("0." in text for text in texts) == bool(augment.mixup)
    assert isinstance(show.draw_grid(images, texts), Image.Image)
