"""Soft labels in whole runs: labels smoothed in the file train as those that the loss smooths."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mlcls_jax.config import Augment, Config, Data, Group, Loss, Model, Phase
from mlcls_jax.data.loaders.loader import Reader, Rows, batch_filenames, train_batches
from mlcls_jax.data.loaders.own_batches import checked_batches
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.splits import load_splits
from mlcls_jax.train import train
from mlcls_jax.training.consistency import data_facts

SMOOTHING = 0.25  # exact in float32


@pytest.fixture
def soft(photos, tmp_path):
    """Returns labels.csv of the images with 0.125 and 0.875 in place of 0 and 1."""
    frame = pd.read_csv(photos / "labels.csv").replace({0: 0.125, 1: 0.875})
    frame.to_csv(tmp_path / "soft.csv", index=False)
    return tmp_path / "soft.csv"


def scores(workdir) -> list[dict]:
    """The records, without what depends on the clock."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    clock = ("images_per_second", "seconds", "timing", "loss_name")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


@pytest.mark.slow
def test_a_run_equals_one_whose_loss_smooths(photos, soft, tiny, tmp_path):
    loss = Loss("asl")
    config = Config(
        log_every=3,
        data=Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=16),
        augment=Augment(mixup=0.2),
        model=Model(variant=tiny, weights="", image_size=32, head_bias="zero"),
        loss=replace(loss, label_smoothing=SMOOTHING),
        phases=[
            Phase("cached", "4 steps", [Group("head/.*", 1e-2)], cached_views=1),
            Phase("tail", "4 steps", [Group("(head|backbone/top)/.*", 1e-2)]),
        ],
    )
    splits = load_splits(config.data)
    for split, table in splits.items():
        (tmp_path / f"{split}.txt").write_text("\n".join(table.filenames))
    assert train(config, tmp_path / "smoothed") == 0
    for name in ("labels.csv", "soft.csv"):  # the same images in val, whatever is stratified
        frame = pd.read_csv(photos / name if name == "labels.csv" else soft)
        frame["split"] = np.where(frame["filename"].isin(splits["val"].filenames), "val", "train")
        frame.to_csv(tmp_path / name, index=False)
    config.data.csv, config.loss = str(tmp_path / "soft.csv"), replace(loss, label_smoothing=0.0)
    assert train(config, tmp_path / "soft") == 0
    for ours, theirs in zip(scores(tmp_path / "soft"), scores(tmp_path / "smoothed"), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if isinstance(value, float):
                assert ours[key] == pytest.approx(value, rel=1e-5), key


def test_batches_have_the_soft_labels(photos, soft):
    table = read_labels(soft, photos)
    options = {"rows": Rows(8, 0, 8), "size": 32, "augment": Augment(), "seed": 0}
    for step, batch in enumerate(
        train_batches(table, first_step=0, last_step=5, reader=Reader(), **options)
    ):
        names = batch_filenames(table, step, 8, seed=0)
        rows = [table.filenames.index(name) for name in names]
        np.testing.assert_array_equal(batch.label, table.train_labels[rows])
        assert batch.label.dtype == np.float32 and set(np.unique(batch.label)) == {0.125, 0.875}


def test_processes_compare_soft_labels(photos, soft):
    table = read_labels(soft, photos)
    assert table.targets is not None
    other = replace(table, targets=np.where(table.targets == 0.125, 0.25, table.targets))
    assert np.array_equal(table.labels, other.labels)
    ours, theirs = (
        data_facts({"train": one})["labels of train (data.csv)"] for one in (table, other)
    )
    assert ours != theirs


def test_own_batches_may_have_soft_labels():
    def batches(labels):
        pair = np.zeros((2, 32, 32, 3), np.uint8), labels
        return checked_batches(lambda _: iter([pair]), 0, 1, Rows(2, 0, 2), (32, 32, 3), 3)

    labels = np.float32([[0.3, 1, -1], [0, 0.5, 0.7]])
    (batch,) = batches(labels)
    np.testing.assert_array_equal(batch.label, labels)
    for wrong in (1.5, -0.5, np.nan):
        with pytest.raises(ValueError, match="labels other than 0 to 1 and -1"):
            list(batches(np.full((2, 3), wrong, np.float32)))
