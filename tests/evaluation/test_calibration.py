"""Fitted temperatures undo a known distortion; the calibration error equals a plain loop."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import log_loss

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation.calibration import (
    BINS,
    DEVIATION,
    MAX_TEMPERATURE,
    calibration_error,
    fit_temperature,
    fit_temperatures,
)

ALL = np.ones(3, bool)


def drawn(images=4000, seed=0):
    """Returns labels drawn with the probabilities of the logits: calibrated by construction."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (images, 3)).astype(np.float32)
    return (rng.random(logits.shape) < expit(logits)).astype(np.int8), logits


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_a_distortion_of_all_classes_is_found(factor):
    labels, logits = drawn()
    found = fit_temperatures(labels, logits * np.float32(factor), ALL, 10, per_class=False)
    np.testing.assert_allclose(found, factor, rtol=0.05)
    assert len(set(found)) == 1


def test_a_distortion_of_each_class_is_found_with_enough_positives():
    labels, logits = drawn()
    labels[:, 2] = 0
    labels[:9, 2] = 1
    factors = np.array([0.5, 2.0, 1.0])
    found = fit_temperatures(labels, logits * factors, np.array([True, True, False]), 10, True)
    np.testing.assert_allclose(found[:2], factors[:2], rtol=0.07)
    together = fit_temperature(labels[:, :2].ravel() == 1, (logits * factors)[:, :2].ravel())
    assert found[2] == pytest.approx(together)


def test_it_is_the_most_probable_temperature():
    labels, logits = drawn(10, seed=3)
    labels, logits = labels.ravel(), 3 * logits.ravel().astype(np.float64)

    def minus_log_probability(inverse):
        each = log_loss(labels, expit(logits * inverse), normalize=False)
        return each - norm(1, DEVIATION).logpdf(inverse)

    expected = minimize_scalar(minus_log_probability, bounds=(0.1, 10)).x
    assert 1 / fit_temperature(labels, logits) == pytest.approx(expected, rel=1e-3)
    without = minimize_scalar(lambda b: log_loss(labels, expit(logits * b)), bounds=(0.1, 10)).x
    assert abs(without - 1) > 1.01 * abs(expected - 1)


def test_soft_labels_are_met_as_they_are():
    logits = drawn()[1]
    soft = expit(logits)
    for per_class in (False, True):
        found = fit_temperatures(soft, 3 * logits, ALL, 10, per_class)
        np.testing.assert_allclose(found, 3, rtol=0.01)
    hidden = np.where(np.arange(len(soft))[:, None] % 3, soft, np.float32(UNKNOWN))
    assert calibration_error(hidden, soft) == pytest.approx(0, abs=1e-7)


def test_few_labels_hardly_move_the_temperature():
    labels, logits = np.array([1, 0]), np.array([2, -2], np.float32)
    assert 0.9 < fit_temperature(labels, logits) < 1
    assert fit_temperature(np.repeat(labels, 1000), np.repeat(logits, 1000)) < 0.4
    assert 1 < fit_temperature(np.zeros(2), logits) < 1.5
    assert fit_temperature(labels[:0], logits[:0]) == pytest.approx(1)


def test_scores_that_are_worse_than_chance_have_no_best_temperature():
    labels, logits = np.repeat([0, 1], 1000), np.repeat(np.array([2, -2], np.float32), 1000)
    assert fit_temperature(labels, logits) == MAX_TEMPERATURE


def test_unknown_labels_have_no_influence():
    labels, logits = drawn(400)
    labels[::3] = UNKNOWN
    other = np.where(labels == UNKNOWN, np.float32(50), logits)
    for per_class in (False, True):
        one, two = (fit_temperatures(labels, x, ALL, 10, per_class) for x in (logits, other))
        np.testing.assert_array_equal(one, two)
    assert calibration_error(labels, expit(logits)) == calibration_error(labels, expit(other))


def test_the_calibration_error_equals_a_plain_loop():
    labels, logits = drawn(200)
    labels[5:50, 1] = UNKNOWN
    probabilities = expit(3 * logits.astype(np.float64))
    probabilities[:3, 0] = 0.0, 1.0, 1 / BINS  # the edges
    bins: list[list[tuple[float, int]]] = [[] for _ in range(BINS)]
    for p, label in zip(probabilities.ravel(), labels.ravel(), strict=True):
        if label != UNKNOWN:
            bins[min(int(p * BINS), BINS - 1)].append((p, label))
    total = sum(map(len, bins))
    expected = sum(
        len(pairs) / total * abs(np.mean([p for p, _ in pairs]) - np.mean([y for _, y in pairs]))
        for pairs in bins
        if pairs
    )
    assert calibration_error(labels, probabilities) == pytest.approx(expected)
    assert np.isnan(calibration_error(np.full((2, 1), UNKNOWN), np.zeros((2, 1))))


def test_calibrating_lowers_the_error_and_keeps_the_order():
    labels, logits = drawn()
    logits = logits * np.float32(3)
    calibrated = expit(logits / fit_temperatures(labels, logits, ALL, 10, True))
    assert calibration_error(labels, calibrated) < calibration_error(labels, expit(logits)) / 3
    for c in range(3):
        assert (np.diff(calibrated[np.argsort(logits[:, c], kind="stable"), c]) >= 0).all()
