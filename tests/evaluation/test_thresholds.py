"""Thresholds compared to a search through all of scikit-learn's, with ties and unknown labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_curve

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation.thresholds import tune, tune_one


@st.composite
def classes(draw):
    """Draws bool [n] with a positive, and scores with few or many levels."""
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    positive = rng.random(n) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    positive[rng.integers(n)] = True
    levels = draw(st.sampled_from([1, 3, 1000]))
    return positive, rng.integers(-levels, levels + 1, n).astype(np.float32)


def curve(positive, scores):
    """Returns scikit-learn's curve without its last point, which predicts nothing."""
    precision, recall, thresholds = precision_recall_curve(positive, scores)
    return precision[:-1], recall[:-1], thresholds


@settings(max_examples=100, deadline=None)
@given(classes())
def test_no_threshold_has_a_higher_f1(drawn):
    positive, scores = drawn
    threshold, reached = tune_one(positive, scores, "f1", 0.9)
    best = max(f1_score(positive, scores >= t) for t in curve(positive, scores)[2])
    assert f1_score(positive, scores >= threshold) == pytest.approx(best)
    assert reached


@settings(max_examples=100, deadline=None)
@given(classes(), st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
def test_the_lowest_threshold_of_a_precision_and_the_highest_of_a_recall(drawn, target):
    positive, scores = drawn
    precision, recall, thresholds = curve(positive, scores)
    threshold, reached = tune_one(positive, scores, "precision", target)
    taken = scores >= threshold
    assert reached == (precision >= target).any()
    if reached:
        expected = scores >= thresholds[precision >= target].min()
        np.testing.assert_array_equal(taken, expected)
    else:
        assert positive[taken].mean() == precision.max()
    threshold, reached = tune_one(positive, scores, "recall", target)
    expected = scores >= thresholds[recall >= target].max()
    np.testing.assert_array_equal(scores >= threshold, expected)
    assert reached


def test_thresholds_lie_midway_between_scores_and_at_minus_infinity_below_all():
    positive = np.array([True, True, False, False])
    scores = np.array([3, 2, 1, 0], np.float32)
    assert tune_one(positive, scores, "f1", 0.9) == (1.5, True)
    assert tune_one(positive, scores, "recall", 0.5) == (2.5, True)
    assert tune_one(~positive, scores, "recall", 1.0) == (-np.inf, True)
    assert tune_one(~positive, scores, "precision", 0.9) == (-np.inf, False)


LABELS = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1]], np.int8)
LOGITS = np.array([[4, 3, 3], [3, 2, 2], [1, 1, 1], [0, 0, 0]], np.float32)


def test_a_class_with_too_few_positives_takes_the_shared_threshold_of_included_classes():
    included_classes = np.array([True, False, True])
    tuned = tune(LABELS, LOGITS, included_classes, "f1", 0.9, minimum=2)
    assert tuned.pooled.tolist() == [False, False, True]
    assert tuned.thresholds[0] == 2.0
    both = LABELS[:, [0, 2]].ravel() == 1, LOGITS[:, [0, 2]].ravel()
    assert tuned.thresholds[2] == tune_one(*both, "f1", 0.9)[0]


def test_without_positives_the_threshold_is_a_logit_of_zero():
    tuned = tune(np.zeros((3, 2), np.int8), LOGITS[:3, :2], np.ones(2, bool), "f1", 0.9, 1)
    assert tuned.thresholds.tolist() == [0.0, 0.0] and tuned.pooled.all()


def test_a_precision_that_is_out_of_reach_is_named():
    labels = np.array([[0, 1], [1, 0]], np.int8)
    logits = np.array([[1, 1], [0, 0]], np.float32)
    tuned = tune(labels, logits, np.ones(2, bool), "precision", 0.9, 1)
    assert tuned.unreached_classes.tolist() == [True, False]


@pytest.mark.parametrize("goal", ["f1", "precision", "recall"])
def test_unknown_labels_have_no_influence(goal):
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([1, 0, UNKNOWN], np.int8), (60, 3))
    logits = rng.normal(size=(60, 3)).astype(np.float32)
    other = np.where(labels == UNKNOWN, np.float32(9), logits)
    for minimum in (1, 100):  # each class on its own, and all pooled
        one, two = (tune(labels, x, np.ones(3, bool), goal, 0.6, minimum) for x in (logits, other))
        np.testing.assert_array_equal(one.thresholds, two.thresholds)
