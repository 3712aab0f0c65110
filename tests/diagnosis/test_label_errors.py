"""Labels that may be wrong: found where planted, and none on right labels of hard images."""

import numpy as np
import pytest

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.diagnosis.label_errors import flat_share, label_errors, local_rates

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


def flipped(truth, share, seed=0):
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
    assert sum(wrong) == pytest.approx(sum(hits), rel=0.25)
    planted = [(flip & (labels == value)).sum() for value in (1, 0)]
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


def test_rates_are_the_share_over_the_decreasing_density():
    # A half of the ranks is uniform, the other half below 0.1: densities 5.5 and 0.5.
    ranks = np.concatenate([np.linspace(0, 1, 5001), np.linspace(0, 0.1, 5001)])
    share, bound = flat_share(ranks)
    assert share == pytest.approx(0.5, rel=0.01)
    assert 0.45 < bound < share
    rates = local_rates(np.sort(ranks), share)
    assert rates[0] == pytest.approx(0.5 / 5.5, rel=0.02)
    assert rates[-1] == pytest.approx(1.0, rel=0.02)
