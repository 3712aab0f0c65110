"""Metrics against scikit-learn, on random scores with ties, empty classes and unknown labels."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, precision_score, recall_score

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation.metrics import (
    average_precisions,
    binary_cross_entropy,
    constant_predictor,
    evaluate_scores,
    top_k,
)

# Each metric but the loss is a mean of at most 24 * 6 numbers up to 1, in float64, which no order
# of adding them rounds by more than 4e-14.
ATOL = 1e-12


@st.composite
def splits(draw):
    """Draws labels, some unknown and some classes without positives, and scores with many ties."""
    n, c = draw(st.integers(1, 24)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = (rng.random((n, c)) < draw(st.sampled_from([0.1, 0.4, 0.9]))).astype(np.int8)
    labels[rng.random((n, c)) < draw(st.sampled_from([0.0, 0.2, 0.7]))] = UNKNOWN
    empty = rng.random(c) < draw(st.sampled_from([0.0, 0.4]))
    labels[:, empty] = np.minimum(labels[:, empty], 0)
    levels = draw(st.sampled_from([1, 2, 4, 1000]))  # 4: scores 0, 0.25, 0.5 (the threshold), ...
    scores = rng.integers(0, levels + 1, (n, c)) / levels
    included_classes = rng.random(c) < draw(st.sampled_from([0.6, 1.0]))
    return labels, scores, included_classes


def names(labels) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(labels.shape[1]))


def sklearn_counts(labels, predicted, included) -> dict[str, float]:
    """Returns CP and CR, averaged over classes, and OP and OR, over all known labels together."""
    known = labels != UNKNOWN
    classes = np.flatnonzero(included)
    columns = [(labels[known[:, c], c], predicted[known[:, c], c]) for c in classes]
    pooled = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
    values = {}
    for letter, function in (("P", precision_score), ("R", recall_score)):
        values["C" + letter] = np.mean([function(*column, zero_division=0) for column in columns])
        values["O" + letter] = function(*pooled, zero_division=0)
    for letter in "CO":
        p, r = values[letter + "P"], values[letter + "R"]
        values[letter + "F1"] = 2 / (1 / p + 1 / r) if p and r else 0.0
    return values


def first_three(row) -> set[int]:
    return set(sorted(range(len(row)), key=lambda c: (-row[c], c))[:3])


@settings(max_examples=120, deadline=None)
@given(splits())
def test_everything_equals_scikit_learn(split):
    labels, scores, included_classes = split
    result = evaluate_scores(labels, scores, names(labels), included_classes)
    included = (labels == 1).any(axis=0) & included_classes
    expected = {}
    for c, name in enumerate(names(labels)):
        known = labels[:, c] != UNKNOWN
        if included[c]:
            expected[name] = average_precision_score(labels[known, c], scores[known, c])
            assert result.class_ap[name] == pytest.approx(expected[name], abs=ATOL)
        else:
            assert np.isnan(result.class_ap[name])
    assert result.excluded_classes == [name for name in names(labels) if name not in expected]
    if not expected:
        assert np.isnan([result.values[key] for key in ("mAP", "CP", "CR", "CF1")]).all()
        return
    assert result.values["mAP"] == pytest.approx(np.mean(list(expected.values())), abs=ATOL)
    three = np.array([[c in first_three(row) for c in range(len(row))] for row in scores])
    for suffix, predicted in (("", scores >= 0.5), ("@3", three)):
        for name, value in sklearn_counts(labels, predicted, included).items():
            assert result.values[name + suffix] == pytest.approx(value, abs=ATOL), name + suffix


@settings(max_examples=60, deadline=None)
@given(splits())
def test_macro_and_micro_averages_equal_scikit_learn_if_all_labels_are_known(split):
    labels, scores, _ = split
    labels = np.abs(labels)
    included = labels.any(axis=0)
    values = evaluate_scores(labels, scores, names(labels)).values
    if not included.any():
        return
    truth, predicted = labels[:, included], (scores >= 0.5)[:, included]
    if truth.shape[1] == 1:  # scikit-learn takes one column for a binary problem: pad
        truth, predicted = (np.repeat(x, 2, axis=1) for x in (truth, predicted))
    for prefix, average in (("C", "macro"), ("O", "micro")):
        for letter, function in (("P", precision_score), ("R", recall_score)):
            value = function(truth, predicted, average=average, zero_division=0)
            assert values[prefix + letter] == pytest.approx(value, abs=ATOL)


@settings(max_examples=60, deadline=None)
@given(splits())
def test_a_constant_predictor_scores_the_prevalence(split):
    labels, _, _ = split
    known, positive = (labels != UNKNOWN).sum(axis=0), (labels == 1).sum(axis=0)
    prevalence = positive / np.maximum(known, 1)
    constant = constant_predictor(prevalence, len(labels))
    assert constant.shape == labels.shape
    result = evaluate_scores(labels, constant, names(labels))
    included = positive > 0
    if included.any():
        assert result.values["mAP"] == pytest.approx(prevalence[included].mean(), abs=ATOL)
    for name, share in zip(names(labels), prevalence, strict=True):
        assert np.isnan(result.class_ap[name]) if not share else True


@settings(max_examples=60, deadline=None)
@given(splits())
def test_cross_entropy_equals_log_loss_of_the_known_labels(split):
    labels, scores, _ = split
    scores = 0.001 + 0.998 * scores
    known = labels != UNKNOWN
    value = binary_cross_entropy(labels, scores)
    if known.any():
        expected = log_loss(labels[known], scores[known], labels=[0, 1])
        assert value == pytest.approx(expected, rel=1e-9)
    else:
        assert np.isnan(value)


def test_cross_entropy_of_a_certain_mistake_is_large_and_finite():
    labels, scores = np.array([[1, 0]], np.int8), np.array([[0.0, 1.0]])
    value = binary_cross_entropy(labels, scores)
    assert np.isfinite(value) and value > 80


@settings(max_examples=60, deadline=None)
@given(splits(), st.integers(1, 8))
def test_top_k_takes_the_k_highest_and_of_equal_ones_the_first(split, k):
    scores = split[1]
    chosen = top_k(scores, k)
    assert (chosen.sum(axis=1) == min(k, scores.shape[1])).all()
    for row, picked in zip(scores, chosen, strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        assert set(np.flatnonzero(picked)) == set(order[:k])


@settings(max_examples=40, deadline=None)
@given(splits(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(split, random):
    labels, scores, included_classes = split
    order = list(range(len(labels)))
    random.shuffle(order)
    a = evaluate_scores(labels, scores, names(labels), included_classes)
    b = evaluate_scores(labels[order], scores[order], names(labels), included_classes)
    assert a.excluded_classes == b.excluded_classes
    for name in a.values:
        same = pytest.approx(b.values[name], rel=ATOL, abs=ATOL, nan_ok=True)
        assert a.values[name] == same


def test_the_score_at_an_unknown_label_does_not_matter():
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 1, UNKNOWN], np.int8), size=(40, 2))
    scores = rng.random((40, 2))
    other = np.where(labels == UNKNOWN, 1 - scores, scores)
    # Two classes: with three places for two, @3 predicts all whatever the scores are.
    assert evaluate_scores(labels, scores, ("a", "b")) == evaluate_scores(labels, other, ("a", "b"))


def test_a_worked_example():
    labels = np.array([[1, 0], [1, 1], [0, UNKNOWN]], np.int8)
    scores = np.array([[0.9, 0.6], [0.4, 0.7], [0.5, 0.9]])
    result = evaluate_scores(labels, scores, ("a", "b"))
    assert result.class_ap == pytest.approx({"a": (1 + 2 / 3) / 2, "b": 1.0})
    v = result.values
    assert (v["CP"], v["CR"]) == (0.5, 0.75)
    assert v["CF1"] == pytest.approx(0.6)  # the mean of the classes' F1 would be 0.583
    assert (v["OP"], v["OR"], v["OF1"]) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    # a: 0.9 is above 0.5, and 0.4 below.  b: 0.7 is above 0.6.
    assert result.class_auroc == {"a": 0.5, "b": 1.0} and v["AUROC"] == 0.75


def test_no_class_with_positives_is_nan_not_a_warning():
    labels = np.zeros((4, 2), np.int8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_scores(labels, np.full((4, 2), 0.3), ("a", "b"))
    assert result.excluded_classes == ["a", "b"]
    assert np.isnan(result.values["mAP"])
    assert result.values["loss"] == pytest.approx(-np.log(0.7))


def test_average_precision_is_computed_only_where_included():
    labels, scores = np.array([[1, 1], [0, 0]], np.int8), np.array([[0.2, 0.9], [0.8, 0.1]])
    aps = average_precisions(labels, scores, np.array([True, False]))
    assert aps[0] == pytest.approx(0.5) and np.isnan(aps[1])


def test_the_number_of_names_must_match_the_columns():
    with pytest.raises(ValueError):
        evaluate_scores(np.ones((2, 2), np.int8), np.ones((2, 2)), ("a",))
