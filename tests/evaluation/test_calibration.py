"""Fitted temperatures undo a known distortion; the calibration error equals a plain loop."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import log_loss

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation.calibration import (
    BINS,
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


def test_it_is_the_temperature_with_the_lowest_log_loss():
    labels, logits = drawn(300, seed=3)
    positive, logits = labels.ravel() == 1, 3 * logits.ravel()
    expected = minimize_scalar(
        lambda t: log_loss(positive, expit(logits.astype(np.float64) / t)), bounds=(0.1, 10)
    ).x
    assert fit_temperature(positive, logits) == pytest.approx(expected, rel=1e-3)


def test_labels_that_have_no_best_temperature():
    positive, logits = np.array([True, False]), np.array([2, -2], np.float32)
    assert fit_temperature(positive, logits) == pytest.approx(1 / MAX_TEMPERATURE)
    assert fit_temperature(~positive, logits) == pytest.approx(MAX_TEMPERATURE)
    assert fit_temperature(np.zeros(2, bool), logits) == 1.0
    assert fit_temperature(np.zeros(0, bool), logits[:0]) == 1.0


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
