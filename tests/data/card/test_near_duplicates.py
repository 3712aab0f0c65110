"""Images of val that look almost like one of train."""

import numpy as np

from mlcls_jax.data.card import near_duplicates as module
from mlcls_jax.data.card.near_duplicates import THRESHOLD, near_duplicates

RNG = np.random.default_rng(0)


def test_each_image_of_val_has_its_nearest_one_of_train():
    train = RNG.normal(size=(600, 16))
    val = RNG.normal(size=(300, 16))
    val[7] = 3 * train[5]
    val[290] = train[599] + 0.01
    train_names = [f"t{i}" for i in range(600)]
    val_names = [f"v{i}" for i in range(300)]
    found = near_duplicates(train, val, train_names, val_names)
    assert found[0] == ("t5", "v7", 1.0)
    assert found[1][:2] == ("t599", "v290") and found[1][2] > 0.99
    assert all(cosine >= THRESHOLD for _, _, cosine in found)


def test_features_of_zeros_and_empty_splits_are_no_pairs():
    nothing = np.zeros((2, 4))
    assert near_duplicates(nothing, nothing, "ab", "cd") == []
    assert near_duplicates(nothing, nothing[:0], "ab", "") == []


def test_a_part_of_many_images_is_compared(monkeypatch):
    monkeypatch.setattr(module, "MOST", 20)
    same = np.ones((10, 3))
    names = [str(i) for i in range(10)]
    assert len(near_duplicates(same, same, names, names)) == 2
