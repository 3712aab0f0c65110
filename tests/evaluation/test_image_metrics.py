"""Metrics within an image against scikit-learn, and by hand where labels are unknown."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_labels import random_split
from sklearn.metrics import (
    accuracy_score,
    coverage_error,
    f1_score,
    hamming_loss,
    label_ranking_average_precision_score,
)

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation.image_metrics import image_decision_values, ranking_values

ATOL = 1e-12  # means of at most 144 numbers up to 6
F1: Any = f1_score  # its annotation of zero_division lacks numbers
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60)
@given(SEEDS)
def test_all_equal_scikit_learn_if_all_labels_are_known(seed):
    labels, scores, _ = random_split(seed)
    labels, everywhere = np.abs(labels), np.ones(labels.shape[1], bool)
    if labels.shape[1] == 1:  # scikit-learn takes one column for a binary problem
        return
    predicted = scores >= 0.5
    values = image_decision_values(labels, predicted, everywhere)
    values |= ranking_values(labels, scores, everywhere)
    assert values == pytest.approx(
        {
            "F1_macro": F1(labels, predicted, average="macro", zero_division=0),
            "F1_samples": F1(labels, predicted, average="samples", zero_division=1),
            "exact_match": accuracy_score(labels, predicted),
            "hamming_loss": hamming_loss(labels, predicted),
            "LRAP": label_ranking_average_precision_score(labels, scores),
            "coverage_error": coverage_error(labels, scores),
        },
        abs=ATOL,
    )


@settings(max_examples=60)
@given(SEEDS)
def test_with_unknown_labels_each_image_is_scored_by_scikit_learn_on_its_known_ones(seed):
    labels, scores, included = random_split(seed)
    predicted = scores >= 0.5
    values = image_decision_values(labels, predicted, included)
    values |= ranking_values(labels, scores, included)
    images: dict[str, list[float]] = {"LRAP": [], "coverage_error": [], "F1_samples": []}
    exact, right = [], []
    for truth, score in zip(labels[:, included], scores[:, included], strict=True):
        known = truth != UNKNOWN
        if not known.any():
            continue
        # A negative that scores lowest changes neither metric of an image with both labels.
        truth, score = np.append(truth[known], 0)[None], np.append(score[known], -1)[None]
        both = 0 < truth[0, :-1].mean() < 1
        rank = label_ranking_average_precision_score(truth, score) if both else 1.0
        images["LRAP"].append(rank)
        images["coverage_error"].append(coverage_error(truth, score))
        f1 = F1(truth[0], score[0] >= 0.5, zero_division=1)
        images["F1_samples"].append(f1)
        same = (truth[0] == 1) == (score[0] >= 0.5)
        exact.append(same.all())
        right.extend(same[:-1])
    for name, per_image in {**images, "exact_match": exact}.items():
        expected = np.mean(per_image) if per_image else float("nan")
        assert values[name] == pytest.approx(expected, abs=ATOL, nan_ok=True), name
    wrong = 1 - np.mean(right) if right else float("nan")
    assert values["hamming_loss"] == pytest.approx(wrong, abs=ATOL, nan_ok=True)


def test_a_worked_example_with_unknown_labels():
    labels = np.array([[1, UNKNOWN, 0], [UNKNOWN, 1, 1], [0, 0, UNKNOWN], [UNKNOWN] * 3], np.int8)
    scores = np.array([[0.4, 0.9, 0.6], [0.8, 0.7, 0.2], [0.1, 0.2, 0.9], [0.9, 0.9, 0.9]])
    values = image_decision_values(labels, scores >= 0.5, np.ones(3, bool))
    # Images: 0 right of (1, 0); 1 of 2 found; nothing to find and nothing found.
    assert values["F1_samples"] == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert values["exact_match"] == pytest.approx(1 / 3)  # the third; the fourth is left out
    assert values["hamming_loss"] == pytest.approx(3 / 6)
    # Classes: never predicted; 1 of 1 found; one false positive and one false negative.
    assert values["F1_macro"] == pytest.approx((0 + 1 + 0) / 3)
    ranking = ranking_values(labels, scores, np.ones(3, bool))
    assert ranking["LRAP"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert ranking["coverage_error"] == pytest.approx((2 + 2 + 0) / 3)


def test_a_perfect_model_is_perfect_and_the_score_at_an_unknown_label_does_not_matter():
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 1, UNKNOWN], np.int8), size=(40, 5))
    scores = np.where(labels == UNKNOWN, rng.random(labels.shape), labels)
    everywhere = np.ones(5, bool)
    perfect = image_decision_values(labels, scores >= 0.5, everywhere)
    assert perfect == {"F1_macro": 1, "F1_samples": 1, "exact_match": 1, "hamming_loss": 0}
    assert ranking_values(labels, scores, everywhere)["LRAP"] == 1
    scores = rng.random(labels.shape)
    other = np.where(labels == UNKNOWN, 1 - scores, scores)
    one, two = (image_decision_values(labels, x >= 0.5, everywhere) for x in (scores, other))
    assert one == two
    assert ranking_values(labels, scores, everywhere) == ranking_values(labels, other, everywhere)


def test_without_a_known_label_all_are_nan():
    labels, scores = np.full((2, 2), UNKNOWN, np.int8), np.zeros((2, 2))
    values = image_decision_values(labels, scores >= 0.5, np.ones(2, bool))
    values |= ranking_values(labels, scores, np.zeros(2, bool))
    assert np.isnan(list(values.values())).all()
