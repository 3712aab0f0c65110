"""The facts of labels: counts, equal classes, and classes that are contained in others."""

import itertools

import numpy as np

from mlcls_jax.data.card import label_facts as module
from mlcls_jax.data.card.label_facts import always_together, label_facts
from mlcls_jax.data.label_table import UNKNOWN, LabelTable


def named_pairs(labels: np.ndarray) -> set[tuple[int, int]]:
    """The pairs (a, b) of which no image has a without b, image by image."""
    columns = range(labels.shape[1])
    return {
        (a, b)
        for a, b in itertools.permutations(columns, 2)
        if (labels[:, a] == 1).any() and not any(row[a] == 1 and row[b] == 0 for row in labels)
    }


def test_a_class_within_another_is_found_and_independent_ones_are_not():
    rng = np.random.default_rng(0)
    animal, red = rng.random(400) < 0.5, rng.random(400) < 0.5
    dog = animal & (rng.random(400) < 0.3)
    labels = np.stack([dog, animal, red], axis=1).astype(np.int8)
    assert always_together(labels) == ([], [(0, 1)]) and named_pairs(labels) == {(0, 1)}
    labels[np.flatnonzero(dog)[-1], 1] = 0  # one image contradicts, beyond the first positives
    assert dog.sum() > 50 and always_together(labels) == ([], [])


def test_what_may_be_chance_is_not_named():
    frequent, rare = np.ones(100, np.int8), np.zeros(100, np.int8)
    frequent[:10], rare[50:53] = 0, 1
    assert named_pairs(np.stack([rare, frequent], axis=1)) == {(0, 1)}
    assert always_together(np.stack([rare, frequent], axis=1)) == ([], [])
    for positives, named in ((1, []), (2, [[0, 1]])):  # 100 images: 4 * 0.01, and 4 * 0.0004
        labels = (np.arange(100) < positives).astype(np.int8)
        assert always_together(np.stack([labels, labels], axis=1)) == (named, [])


def test_unknown_labels_contradict_nothing():
    labels = np.tile(np.array([[1, 1], [0, 0], [0, 1]], np.int8), (20, 1))
    labels[::7, 1] = UNKNOWN
    assert always_together(labels) == ([], [(0, 1)])
    labels[:, 1] = UNKNOWN
    assert always_together(labels) == ([], [])


def test_of_equal_classes_only_the_first_is_in_a_pair():
    labels = np.tile(np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], np.int8), (20, 1))
    assert always_together(labels) == ([[0, 2], [1, 3]], [(0, 1)])


def test_the_counts_are_those_of_each_split(monkeypatch):
    labels = np.array([[1, 0], [UNKNOWN, 1], [0, 1]], np.int8)
    table = LabelTable("images", ("a", "b", "c"), labels, ("cat", "dog"))
    facts = label_facts({"train": table, "val": table.take([0])})
    assert facts.splits == {
        "train": {"images": 3, "positive": 3, "unknown": 1},
        "val": {"images": 1, "positive": 1, "unknown": 0},
    }
    assert facts.positives == {"cat": {"train": 1, "val": 1}, "dog": {"train": 2, "val": 0}}
    assert facts.images_compared == 4
    monkeypatch.setattr(module, "MAX_LABELS", 4)
    assert label_facts({"train": table, "val": table.take([0])}).images_compared == 3


def test_a_single_class_has_no_pairs():
    assert always_together(np.ones((5, 1), np.int8)) == ([], [])
