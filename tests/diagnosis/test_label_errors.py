"""Labels that may be wrong: found where planted, and none on right labels of hard images."""

import numpy as np
import pytest

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.diagnosis.label_errors import (
    flat_share,
    label_errors,
    labelled_present,
    noise_rates,
    wrong_given,
)

IMAGES, CLASSES = 1000, 6


def simulated(seed: int, hard: float, separation: float = 5.0):
    """Returns true labels and logits; `hard` of the positives score between those of both kinds."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((IMAGES, CLASSES)) < 0.2).astype(np.int8)
    scores = rng.normal(np.where(truth == 1, separation / 2, -separation / 2), 1)
    is_hard = (truth == 1) & (rng.random(truth.shape) < hard)
    scores = np.where(is_hard, rng.normal(0, 1, truth.shape), scores)
    return truth, scores


def found_in(labels, scores):
    return label_errors(labels, scores, 1 / (1 + np.exp(-scores)))


def flipped(
    truth, share, seed=100
):  # unlike the seeds of `simulated`, whose numbers it would repeat
    flip = np.random.default_rng(seed).random(truth.shape) < share
    return flip, np.where(flip, 1 - truth, truth).astype(np.int8)


@pytest.mark.parametrize("hard", [0.0, 0.1, 0.3])
def test_right_labels_of_hard_images_are_not_suspect(hard):
    for seed in range(3):
        assert found_in(*simulated(seed, hard)).suspects == []


@pytest.mark.parametrize("hard", [0.0, 0.1])
def test_planted_errors_are_found_the_most_probable_first(hard):
    truth, scores = simulated(0, hard)
    flip, labels = flipped(truth, 0.05)
    errors = found_in(labels, scores)
    hits = [bool(flip[one.row, one.column]) for one in errors.suspects]
    assert sum(hits) >= 0.9 * flip.sum()
    assert np.mean(hits) >= 0.7
    assert np.mean(hits[:100]) >= 0.95
    wrong = [one.wrong for one in errors.suspects]
    assert wrong == sorted(wrong, reverse=True)
    # The probabilities add up to about the number of wrong labels.
    assert sum(wrong) == pytest.approx(sum(hits), rel=0.3)
    planted = [(flip & (labels == value)).sum() for value in (1, 0)]
    assert min(planted) > 30
    assert errors.estimate.wrong_present <= planted[0]
    assert errors.estimate.wrong_absent <= planted[1]


def test_unknown_labels_and_classes_that_the_model_does_not_know_have_none():
    truth, scores = simulated(0, 0.0)
    flip, labels = flipped(truth, 0.05)
    labels[:, 0] = UNKNOWN
    scores[:, 1] = np.random.default_rng(1).normal(size=IMAGES)
    columns = {one.column for one in found_in(labels, scores).suspects}
    assert columns == set(range(2, CLASSES))
    labels[flip] = UNKNOWN
    assert found_in(labels, scores).suspects == []
    assert found_in(truth[:50], scores[:50]).suspects == []  # too few positives


def test_the_share_of_uniform_ranks_is_found_below_others():
    ranks = np.concatenate([np.linspace(0, 1, 5001), np.linspace(0, 0.1, 5001)])
    share, bound = flat_share(ranks)
    assert share == pytest.approx(0.5, rel=0.01)
    assert 0.45 < bound < share
    reaching = np.concatenate([np.linspace(0, 1, 5001), np.linspace(0, 0.6, 5001)])
    assert flat_share(reaching)[0] == pytest.approx(0.5, rel=0.01)  # from the cuts above 0.6
    assert flat_share(np.array([])) == (0.0, 0.0)


def test_probabilities_of_wrong_labels_are_their_frequencies():
    rng, rates = np.random.default_rng(0), (0.05, 0.2)
    for shown in (0.05, 0.5, 0.9):
        truth = rng.random(200_000) < shown
        labels = np.where(
            rng.random(len(truth)) < np.where(truth, rates[1], rates[0]), ~truth, truth
        )
        table = labels.astype(np.int8)[:, None]
        found = wrong_given(table, np.full(table.shape, labels.mean()), *rates)[:, 0]
        for value in (True, False):
            wrong = (labels != truth)[labels == value].mean()
            assert found[labels == value][0] == pytest.approx(wrong, rel=0.1)
        counts = [(labels & ~truth).sum(), (~labels & truth).sum()]
        found_rates = noise_rates(int(labels.sum()), int((~labels).sum()), *counts)
        assert found_rates == pytest.approx(rates, rel=0.1)
    unknown = np.full((1, 1), UNKNOWN, np.int8)
    assert wrong_given(unknown, np.full((1, 1), 0.5), *rates) == 0
    assert not wrong_given(table, np.full(table.shape, 0.5), 0.0, 0.0).any()


def test_the_probability_of_a_label_is_calibrated_on_the_known_labels():
    truth, scores = simulated(0, 0.3)
    labels = flipped(truth, 0.05)[1]
    labels[:100, 0], labels[:, 1], labels[:, 2], labels[:, 3] = UNKNOWN, UNKNOWN, 1, 0
    too_sure = 1 / (1 + np.exp(-4 * scores - 2))  # as after training on wrong labels
    present = labelled_present(labels, too_sure.astype(np.float32))
    for column in (0, 4, 5):
        known = labels[:, column] != UNKNOWN
        values = labels[known, column]
        assert present[known, column].mean() == pytest.approx((values == 1).mean(), abs=1e-3)
        order = np.argsort(scores[:, column])
        assert (np.diff(present[order, column]) >= 0).all()
        for low, high in ((0.0, 0.2), (0.2, 0.8), (0.8, 1.0)):
            near = known & (present[:, column] >= low) & (present[:, column] <= high)
            share = (labels[near, column] == 1).mean()
            assert share == pytest.approx(present[near, column].mean(), abs=0.1)
    assert not present[:, 1:4].any()
