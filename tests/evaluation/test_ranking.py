"""The order of images to label next."""

import numpy as np
import pytest

from mlcls_jax.evaluation import ranking
from mlcls_jax.evaluation.ranking import certainty, disagreement, farthest_first


def test_an_image_at_a_threshold_is_uncertain_and_one_at_0_and_1_is_certain():
    probabilities = np.array([[0.0, 1.0], [0.2, 1.0], [0.0, 0.75], [0.6, 1.0]])
    assert certainty(probabilities, np.array([0.2, 0.5])) == pytest.approx([1, 0, 0.5, 0.5])


def test_the_distance_is_relative_to_the_side_of_the_threshold():
    values = certainty(np.array([[1.0, 0.0], [0.1, 0.0]]), np.array([0.2, 0.9]))
    assert values == pytest.approx([1, 0.5])


def test_extreme_thresholds_are_no_error():
    assert certainty(np.array([[0.5, 0.25]]), np.array([0.0, 1.0])) == pytest.approx([0.5])


def test_farthest_first_with_equal_weights_is_greedy_k_centre():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 5))
    order = farthest_first(features, np.ones(40))
    assert sorted(order) == list(range(40))
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    apart = np.linalg.norm(directions[:, None] - directions, axis=2)
    for count in range(1, 40):
        nearest = apart[:, order[:count]].min(axis=1)
        assert nearest[order[count]] == pytest.approx(nearest.max(), abs=1e-6)


def test_copies_come_last_and_certain_images_after_uncertain_ones():
    features = np.array([[1.0, 0], [1, 0], [0, 1], [-1, 0]])
    assert farthest_first(features, np.array([0.5, 0.6, 0.4, 0.01])).tolist() == [1, 2, 3, 0]


def test_images_beyond_the_centres_are_sorted_by_the_same_product(monkeypatch):
    features = np.random.default_rng(1).normal(size=(12, 3))
    whole = farthest_first(features, np.ones(12))
    monkeypatch.setattr(ranking, "CENTRES", 4)
    part = farthest_first(features, np.ones(12))
    assert part[:5].tolist() == whole[:5].tolist() and sorted(part) == list(range(12))


def test_runs_that_are_all_uncertain_agree():
    probabilities = np.array([[[0.5, 0.5], [0.1, 0.2]], [[0.5, 0.5], [0.9, 0.2]]])
    values = disagreement(probabilities)
    assert values[0] == pytest.approx(0)
    low, mean = (-p * np.log(p) - (1 - p) * np.log(1 - p) for p in (0.1, 0.5))
    assert values[1] == pytest.approx(mean - low)
    assert disagreement(np.array([[[0.0]], [[0.0]]])) == pytest.approx([0])
