"""ml.tf_dataset: the batches of a run for loops of one's own."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import mlcls_jax as ml
from mlcls_jax.data.loaders.loader import (
    Reader,
    Rows,
    batch_filenames,
    eval_batches,
    train_batches,
)
from mlcls_jax.data.splits import load_splits

pytestmark = pytest.mark.reference

SIZE = 32


@pytest.fixture
def config(photos, tiny) -> ml.Config:
    return ml.Config(
        recipe="none",
        data=ml.Data(
            csv=str(photos / "labels.csv"),
            images=str(photos),
            batch_size=8,
            eval_batch_size=8,
            loader="tf_data",
        ),
        model=ml.Model(variant=tiny, weights="", image_size=SIZE),
        phases=[ml.Phase("all", "6 steps", [ml.Group(".*", 1e-2)])],
    )


@pytest.mark.parametrize(("resize", "symmetry"), [("squash", "h"), ("letterbox", "d4")])
def test_training_batches_are_those_of_a_run(config, resize, symmetry):
    config.augment = ml.Augment(resize, symmetry=symmetry)
    table = load_splits(config.data)["train"]
    expected = train_batches(
        table,
        first_step=2,
        last_step=6,
        rows=Rows(8, 0, 8),
        size=SIZE,
        augment=config.augment,
        seed=config.seed,
        reader=Reader(loader="tf_data"),
    )
    found = ml.tf_dataset(None, config, first_step=2)
    for (images, labels), batch in zip(found, expected, strict=True):
        np.testing.assert_array_equal(images, batch.image)
        np.testing.assert_array_equal(labels, batch.label)


def test_a_table_of_ones_own_is_oversampled_as_in_a_run(config):
    frame = pd.read_csv(config.data.csv)
    config.data.oversample_threshold, config.data.oversample = 0.9, "balanced"
    table = load_splits(config.data)["train"]
    assert table.repeats is not None
    plain = replace(table, repeats=None)
    for (images, labels), (others, other_labels) in zip(
        ml.tf_dataset(frame, config), ml.tf_dataset(plain, config), strict=True
    ):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)
    names = {name for step in range(6) for name in batch_filenames(table, step, 8, config.seed)}
    assert len(names) < min(len(table), 48)


def test_other_splits_come_once_in_order(config):
    table = load_splits(config.data)["val"]
    found = list(ml.tf_dataset(config.data.csv, config, "val"))
    images = np.concatenate([images for images, _ in found])
    rows = Rows(len(table), 0, len(table))
    options = {"rows": rows, "size": SIZE, "augment": config.augment}
    np.testing.assert_array_equal(images, next(eval_batches(table.paths, **options)))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), table.labels)


def test_a_run_with_the_dataset_is_the_run_without_it(config, tmp_path):
    plain = ml.train(config, tmp_path / "plain").history
    own = ml.train(config, tmp_path / "own", batches=ml.tf_dataset(None, config)).history
    assert plain["train_loss"].tolist() == own["train_loss"].tolist()
    assert plain["val.mAP"].tolist() == own["val.mAP"].tolist()


def test_labels_may_be_a_frame_or_a_table(config):
    frame = pd.read_csv(config.data.csv)
    table = load_splits(config.data)["val"]
    (first, _), (second, _) = (
        next(iter(ml.tf_dataset(labels, config, "val"))) for labels in (frame, table)
    )
    np.testing.assert_array_equal(first, second)


def test_a_resizing_that_tensorflow_does_not_do_is_refused(config):
    config.augment.interpolation = "bicubic"
    with pytest.raises(ValueError, match=r"data\.loader=tf_data resizes bilinearly"):
        ml.tf_dataset(None, config)


def test_a_split_that_is_not_there_is_named(config):
    with pytest.raises(ValueError, match="it must be one of train, val, test"):
        ml.tf_dataset(None, config, "valid")
    with pytest.raises(ValueError, match="there is no split 'test'; there are train, val"):
        ml.tf_dataset(None, config, "test")
