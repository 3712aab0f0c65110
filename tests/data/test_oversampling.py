"""Repeat-factor sampling: the factors of the paper, which labels count, and the line printed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mlcls_jax.config import Data, Loss
from mlcls_jax.data.folds import into_folds
from mlcls_jax.data.label_table import UNKNOWN, LabelTable, as_labels
from mlcls_jax.data.oversampling import oversampled, with_repeats
from mlcls_jax.data.sampling import stream_order
from mlcls_jax.data.splits import load_splits
from mlcls_jax.step.losses import pos_weights, prior_bias

IMAGES, CLASSES = 200, 6


def table_of(labels: np.ndarray) -> LabelTable:
    labels, targets = as_labels(labels)
    names = tuple(f"{i}.jpg" for i in range(len(labels)))
    classes = tuple(f"class {c}" for c in range(labels.shape[1]))
    return LabelTable("images", names, labels, classes, targets=targets)


def random_labels(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = (rng.random((IMAGES, CLASSES)) < np.geomspace(0.01, 0.6, CLASSES)).astype(np.int8)
    labels[rng.random(labels.shape) < 0.1] = UNKNOWN
    return labels


def factors_of(labels: np.ndarray, **fields) -> np.ndarray:
    repeats = with_repeats(table_of(labels), Data(**fields)).repeats
    return np.ones(len(labels)) if repeats is None else repeats.factors


def paper(labels: np.ndarray, t: float, power: float, largest: float) -> list[float]:
    """The factors as section B.2 of arXiv:1908.03195 defines them, image by image."""
    share = [sum(row[c] == 1 for row in labels) / len(labels) for c in range(labels.shape[1])]
    return [
        max(
            [1.0]
            + [
                min(max(1.0, (t / share[c]) ** power), largest)
                for c in range(len(row))
                if row[c] == 1
            ]
        )
        for row in labels
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("kind", "power"), [("sqrt", 0.5), ("balanced", 1.0)])
def test_factors_are_those_of_the_paper(kind, power, seed):
    labels = random_labels(seed)
    found = factors_of(labels, oversample=kind, oversample_threshold=0.25)
    np.testing.assert_allclose(found, paper(labels, 0.25, power, 10.0))
    low = factors_of(labels, oversample=kind, oversample_threshold=0.25, oversample_max=1.5)
    np.testing.assert_allclose(low, np.minimum(found, 1.5))
    assert found.max() > 1.5
    shares = (labels == 1).mean(axis=0)
    median = float(np.median(shares[shares > 0]))
    found = factors_of(labels, oversample=kind)
    np.testing.assert_allclose(found, paper(labels, median, power, 10.0))


def test_a_class_is_present_from_one_half_and_unknown_labels_do_not_count():
    hard = np.zeros((8, 2), np.int8)
    hard[:4, 0], hard[0, 1], hard[1, 1] = 1, 1, UNKNOWN
    expected = [2.0] + [1.0] * 7
    fields = {"oversample": "balanced", "oversample_threshold": 0.25}
    assert factors_of(hard, **fields).tolist() == expected
    soft = np.where(hard == 1, 0.5, np.where(hard == UNKNOWN, UNKNOWN, 0.49)).astype(np.float32)
    assert factors_of(soft, **fields).tolist() == expected


def test_the_line_names_the_rarest_class_and_what_an_epoch_has():
    labels = np.zeros((100, 3), np.int8)
    labels[:50, 0], labels[50:70, 1], labels[70:75, 2] = 1, 1, 1
    table = with_repeats(table_of(labels), Data(oversample="balanced"))
    # The median is 0.2, so 5 images have the factor 4, the mean is 1.15, and 5 + 95 / 1.15 differ.
    assert table.notes == (
        "data.oversample=balanced shows images of rare classes (1 of 3, in fewer than 20.00% of "
        "train) up to 4.0 times as often as others ('class 2', in 5 of 100 images); an epoch has "
        "as many, of which about 88 are different",
    )


@pytest.mark.parametrize(
    "labels",
    [np.zeros((6, 2), np.int8), np.full((6, 2), UNKNOWN, np.int8), np.ones((6, 2), np.int8)],
    ids=["absent", "unknown", "present"],
)
def test_equal_classes_change_nothing_and_a_line_says_so(labels):
    table = with_repeats(table_of(labels), Data(oversample="sqrt"))
    assert table.repeats is None
    assert "data.oversample=sqrt changes nothing" in table.notes[0]


@pytest.mark.parametrize("soft", [False, True])
def test_bias_and_positive_weights_use_the_frequencies_of_the_epochs(soft):
    labels = random_labels(0)
    if soft:
        labels = np.where(labels == 1, 0.8, labels).astype(np.float32)
    plain = table_of(labels)
    table = with_repeats(plain, Data(oversample="balanced"))
    epochs = 400
    _, indices = stream_order(np.arange(epochs * IMAGES), IMAGES, 0, table.repeats)
    seen = table.train_labels[indices]
    means = np.where(seen == UNKNOWN, 0, seen).sum(0) / (seen != UNKNOWN).sum(0)
    np.testing.assert_allclose(table.mean_targets, means, rtol=0.02)
    assert table.mean_targets[0] > 2 * plain.mean_targets[0]
    assert prior_bias(Loss(), table.mean_targets)[0] > prior_bias(Loss(), plain.mean_targets)[0]
    auto = Loss(pos_weight="auto", pos_weight_max=1000.0)
    ours, theirs = (pos_weights(auto, CLASSES, one.mean_targets)[0] for one in (table, plain))
    assert ours < theirs / 2
    np.testing.assert_array_equal(table.frequencies, plain.frequencies)  # the base rate is of train


def test_parts_of_a_table_keep_the_factors_of_their_images():
    table = with_repeats(table_of(random_labels(0)), Data(oversample="sqrt"))
    assert table.repeats is not None
    part = table.take([5, 3]).repeats
    assert part is not None and part.factors.tolist() == table.repeats.factors[[5, 3]].tolist()
    assert table.take([]).repeats is not None


def test_only_train_is_oversampled_by_its_own_labels(photos, tmp_path):
    frame = pd.read_csv(photos / "labels.csv")
    rare = frame.columns[1]
    frame[rare] = 0
    frame.loc[[0, 1, 2], rare] = 1
    frame.to_csv(tmp_path / "labels.csv", index=False)
    data = Data(csv=str(tmp_path / "labels.csv"), images=str(photos), oversample="sqrt")
    plain = load_splits(replace(data, oversample="none"))
    for fields in ({}, {"folds": 3, "fold": 1}, {"folds": 3}):
        splits = load_splits(replace(data, **fields))
        train = splits["train"]
        expected = with_repeats(replace(train, repeats=None, notes=()), data)
        assert train.repeats is not None and expected.repeats is not None
        np.testing.assert_array_equal(train.repeats.factors, expected.repeats.factors)
        assert train.notes[-1:] == expected.notes
        assert all(part.repeats is None for split, part in splits.items() if split != "train")
    assert plain["train"].repeats is None
    assert plain["train"].filenames == load_splits(data)["train"].filenames


def test_the_repeats_of_a_fold_are_of_its_own_training_images():
    data = Data(oversample="balanced", oversample_threshold=0.25)
    pool = {"train": with_repeats(table_of(random_labels(0)), data)}
    folds = into_folds(pool, folds=4, seed=0)
    splits = oversampled(folds.splits_of(1), data)
    alone = with_repeats(table_of(folds.table.labels[folds.fold != 1]), data)
    assert splits["train"].repeats is not None and alone.repeats is not None
    np.testing.assert_array_equal(splits["train"].repeats.factors, alone.repeats.factors)
    assert splits["train"].notes == alone.notes
    assert splits["val"].repeats is None and splits["val"].notes == ()
