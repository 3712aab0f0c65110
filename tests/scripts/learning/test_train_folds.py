"""Runs by fold: what each is given, what is stored, and timm's loop."""

import numpy as np
import pandas as pd
import pytest
import train_folds
from fold_runs import FOLDS
from out_of_fold import read
from PIL import Image


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"filename": [f"{i}.png" for i in range(20)]})
    table["red"], table["blue"] = np.arange(20) % 2, (np.arange(20) % 3 == 0).astype(int)
    table.to_csv(tmp_path / "labels.csv", index=False)
    for name, red in zip(table["filename"], table["red"], strict=True):
        pixels = rng.integers(0, 80, (64, 64, 3)).astype(np.uint8)
        pixels[..., 0] += np.uint8(150 * red)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path, table


def options(folder):
    paths = ["--csv", f"{folder / 'labels.csv'}", "--images", f"{folder}"]
    return [*paths, "--out", f"{folder / 'out'}"]


def test_every_fold_is_stored_once_in_the_order_of_the_table(data, monkeypatch):
    folder, table = data
    seen = []

    def scored(given, csv, scratch, seed):
        split = pd.read_csv(csv)
        held_out = split[split["split"] == "val"].sample(frac=1, random_state=0)
        seen.append((seed, len(held_out), given.more))
        return held_out[["filename", "red", "blue"]].assign(red=held_out["red"] * 2.0)

    monkeypatch.setattr(train_folds, "run_ours", scored)
    for _ in range(2):  # the second time, nothing is left to do
        train_folds.main([*options(folder), "row", "--", "--recipe", "none"])
    assert [(seed, more) for seed, _, more in seen] == [
        (index, ["--recipe", "none"]) for index in range(FOLDS)
    ]
    assert sum(count for _, count, _ in seen) == len(table)
    row = read(folder / "out", "row")
    np.testing.assert_array_equal(row.logits[0][:, 0], table["red"] * 2.0)
    np.testing.assert_array_equal(row.labels[:, 1], table["blue"])


def test_it_trains_on_as_many_images_as_asked_for(data, monkeypatch):
    folder, table = data
    seen = []

    def scored(given, csv, scratch, seed):
        split = pd.read_csv(csv)
        seen.append(split["split"].value_counts().to_dict())
        return split.loc[split["split"] == "val", ["filename", "red", "blue"]]

    monkeypatch.setattr(train_folds, "run_ours", scored)
    train_folds.main([*options(folder), "--train-images", "7", "row"])
    assert [counts["train"] for counts in seen] == [7] * FOLDS
    assert sum(counts["val"] for counts in seen) == len(table)


def test_a_failed_run_is_one_line(data, monkeypatch):
    folder, _ = data
    monkeypatch.setattr(train_folds, "ROOT", folder)
    with pytest.raises(ValueError, match=r"-m mlcls_jax\.train: .*no such file"):
        train_folds.main([*options(folder), "row"])


@pytest.mark.reference
@pytest.mark.slow
def test_timms_loop_scores_the_held_out_images(data):
    folder, table = data
    small = ["--size", "64", "--epochs", "8", "2", "--batch-size", "8", "--mixup", "0.2"]
    parsed = train_folds.parse([*options(folder), "--side", "timm", "row", "--", *small])
    csv = folder / "fold.csv"
    table.assign(split=["val"] * 6 + ["train"] * 14).to_csv(csv, index=False)
    scored = train_folds.run_timm(parsed, csv, folder, seed=0)
    assert scored["filename"].tolist() == table["filename"].tolist()[:6]
    logits, red = scored["red"].to_numpy(), table["red"].to_numpy()[:6]
    assert logits[red == 1].min() > logits[red == 0].max()
