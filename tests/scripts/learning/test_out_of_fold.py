"""Out-of-fold scores and their paired differences, against scikit-learn."""

import dataclasses
from pathlib import Path

import fold_runs
import numpy as np
import out_of_fold
import pytest
from sklearn.metrics import average_precision_score, log_loss

IMAGES, CLASSES = 80, 3


def store(folder: Path, name: str, logits: np.ndarray, labels: np.ndarray) -> None:
    fold = fold_runs.fold_of(labels, seed=0)
    (folder / name).mkdir()
    for index in range(fold_runs.FOLDS):
        rows = np.flatnonzero(fold == index)
        np.savez(
            folder / name / f"0_{index}.npz",
            rows=rows,
            labels=labels[rows],
            images=len(labels),
            seconds=2.0,
            logits=logits[rows],
            logits_head=-logits[rows],
        )


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random((IMAGES, CLASSES)) < 0.4).astype(np.int8)
    return labels, rng.normal(size=labels.shape) + labels


def test_folds_share_the_positives(data):
    labels, _ = data
    fold = fold_runs.fold_of(labels, seed=1)
    assert sorted(np.unique(fold)) == [0, 1, 2, 3, 4]
    counts = np.array([labels[fold == index].sum(0) for index in range(5)])
    assert (np.ptp(counts, axis=0) <= 3).all()


def test_stored_folds_give_scikit_learns_map(tmp_path, data):
    labels, logits = data
    store(tmp_path, "row", logits, labels)
    row = out_of_fold.read(tmp_path, "row")
    expected = average_precision_score(labels, logits, average="macro")
    assert out_of_fold.summary(row)["mAP"] == pytest.approx(expected, abs=1e-6)
    assert row.seconds == 2.0
    fold = fold_runs.fold_of(labels, seed=0)
    parts = [
        average_precision_score(labels[fold == k], logits[fold == k], average="macro")
        for k in range(5)
    ]
    assert out_of_fold.summary(row)["fold mAP"] == pytest.approx(np.mean(parts), abs=1e-6)
    reverse = out_of_fold.read(tmp_path, "row:head")
    assert out_of_fold.summary(reverse)["mAP"] < expected


def test_the_rare_classes_can_be_averaged_alone(tmp_path, data):
    labels, logits = data
    store(tmp_path, "row", logits, labels)
    most = int(np.median(labels.sum(axis=0)))
    row = out_of_fold.read(tmp_path, "row", most)
    rare = labels.sum(axis=0) <= most
    assert row.included.tolist() == rare.tolist() and 0 < rare.sum() < CLASSES
    expected = average_precision_score(labels[:, rare], logits[:, rare], average="macro")
    assert out_of_fold.summary(row)["mAP"] == pytest.approx(expected, abs=1e-6)


def test_a_row_does_not_differ_from_itself(tmp_path, data):
    labels, logits = data
    store(tmp_path, "row", logits, labels)
    row = out_of_fold.read(tmp_path, "row")
    assert out_of_fold.map_difference(row, row) == (0.0, 0.0, 0.0)
    assert out_of_fold.loss_difference(row, row) == (0.0, 0.0, 0.0)


def test_a_better_row_has_an_interval_above_zero(tmp_path, data):
    labels, logits = data
    store(tmp_path, "row", logits, labels)
    store(tmp_path, "better", logits + 2 * labels, labels)
    better, row = (out_of_fold.read(tmp_path, name) for name in ("better", "row"))
    gain, low, high = out_of_fold.map_difference(better, row)
    assert 0 < low < gain < high
    assert out_of_fold.map_difference(row, better)[0] == pytest.approx(-gain)
    gain, low, high = out_of_fold.fold_map_difference(better, row)
    assert 0 < low < gain < high
    values = [out_of_fold.summary(each)["fold mAP"] for each in (better, row)]
    assert gain == pytest.approx(values[0] - values[1], abs=1e-6)


def test_scores_that_are_moved_in_each_fold_lower_the_pooled_map_only(tmp_path, data):
    labels, logits = data
    store(tmp_path, "row", logits, labels)
    row = out_of_fold.read(tmp_path, "row")
    moved = dataclasses.replace(row, logits={0: logits + 3.0 * row.fold[0][:, None]})
    assert out_of_fold.map_difference(moved, row)[0] < -0.01
    assert out_of_fold.fold_map_difference(moved, row)[0] == pytest.approx(0, abs=1e-6)


def test_the_difference_of_the_losses_is_that_of_the_calibrated_probabilities(tmp_path, data):
    labels, logits = data
    labels[:10, 0] = -1
    labels[0] = -1  # an image without labels
    store(tmp_path, "row", logits, labels)
    store(tmp_path, "better", logits + 2 * (labels == 1), labels)
    better, row = (out_of_fold.read(tmp_path, name) for name in ("better", "row"))
    gain, low, high = out_of_fold.loss_difference(better, row)
    assert low < gain < high < 0
    known = labels >= 0
    losses = [log_loss(labels[known], each.calibrated[0][0][known]) for each in (better, row)]
    assert gain == pytest.approx(losses[0] - losses[1], abs=1e-6)


def test_an_ensemble_has_the_mean_probability_of_the_seeds(tmp_path, data):
    labels, logits = data
    store(tmp_path, "row", logits, labels)
    one = out_of_fold.read(tmp_path, "row")
    two = dataclasses.replace(one, logits={0: logits, 1: -logits}, fold={0: one.fold[0]} | one.fold)
    mean = out_of_fold.ensemble(two)
    assert mean.seconds == 4.0
    for seed in (0, 1):
        np.testing.assert_allclose(mean.logits[seed], 0, atol=1e-6)
    np.testing.assert_allclose(out_of_fold.ensemble(one).logits[0], logits, rtol=1e-5, atol=1e-6)


def test_a_missing_fold_is_an_error(tmp_path, data):
    labels, logits = data
    store(tmp_path, "row", logits, labels)
    (tmp_path / "row" / "0_3.npz").unlink()
    with pytest.raises(ValueError, match="row: no seed has the results of all folds"):
        out_of_fold.read(tmp_path, "row")
