"""Precision at a recall against every threshold, with ties and unknown labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_labels import random_split
from sklearn.metrics import precision_score, recall_score

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation.precision_at_recall import precisions_at_recall


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_it_is_the_best_precision_of_all_thresholds_that_reach_the_recall(seed, recall):
    labels, scores, included = random_split(seed)
    included &= (labels == 1).any(axis=0)
    result = precisions_at_recall(labels, scores, included, recall)
    for c in range(labels.shape[1]):
        if not included[c]:
            assert np.isnan(result[c])
            continue
        known = labels[:, c] != UNKNOWN
        truth, score = labels[known, c], scores[known, c]
        predictions = [score >= threshold for threshold in score]
        enough = [p for p in predictions if recall_score(truth, p) >= recall]
        expected = max(float(precision_score(truth, p)) for p in enough)
        assert result[c] == pytest.approx(expected, abs=1e-12)


def test_a_worked_example_with_unknown_labels():
    labels = np.array([[1], [UNKNOWN], [1], [0], [0], [1], [0], [1]], np.int8)
    scores = np.arange(8, 0, -1.0)[:, None] / 8
    values = [precisions_at_recall(labels, scores, np.array([True]), r)[0] for r in (0.5, 0.75, 1)]
    # 2 of 2, then 3 of 5, then 4 of 7; the second image has no known label.
    assert values == pytest.approx([1, 3 / 5, 4 / 7])


def test_a_constant_score_has_the_prevalence():
    labels = np.array([[1], [0], [0], [UNKNOWN]], np.int8)
    result = precisions_at_recall(labels, np.full((4, 1), 0.3), np.array([True]), 0.9)
    assert result[0] == pytest.approx(1 / 3)
