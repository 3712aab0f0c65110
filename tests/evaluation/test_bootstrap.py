"""The bootstrap interval, with average precisions compared to scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from tolerances import sum_atol

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation import bootstrap
from mlcls_jax.evaluation.bootstrap import RankedClass, map_interval


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1, 4, 1000]))
def test_weights_are_the_sample_weights_of_scikit_learn(seed, images, levels):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([1, 0, UNKNOWN], np.int8), images, p=[0.3, 0.5, 0.2])
    labels[rng.integers(images)] = 1
    scores = rng.integers(0, levels + 1, images) / levels
    weights = rng.poisson(1, (images, 5)).astype(np.float32)
    got = RankedClass(labels, scores).average_precisions(weights)
    known = labels != UNKNOWN
    for ap, weight in zip(got, weights.T, strict=True):
        if weight[labels == 1].sum() == 0:
            assert np.isnan(ap)
            continue
        expected = average_precision_score(
            labels[known], scores[known], sample_weight=weight[known]
        )
        near = sum_atol(images + 1, 1.0)  # the parts of a mean, which are divided by their sum
        assert ap == pytest.approx(expected, abs=near)


def split(images, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, 4)) < 0.3).astype(np.int8)
    return labels, (labels + rng.normal(size=labels.shape)).astype(np.float32)


def sklearn_map(labels, scores) -> float:
    columns = zip(labels.T, scores.T, strict=True)
    return float(np.mean([average_precision_score(*column) for column in columns]))


def test_the_interval_equals_resampling_the_rows():
    labels, scores = split(60)
    interval = map_interval(labels, scores, np.ones(4, bool), 70, seed=5)
    assert interval is not None
    rng = np.random.default_rng(5)
    rows = [rng.integers(0, 60, 60) for _ in range(70)]
    maps = [sklearn_map(labels[r], scores[r]) for r in rows]
    expected = np.percentile(maps, [2.5, 97.5])
    near = sum_atol(len(labels) + 1, 1.0)
    np.testing.assert_allclose([interval.low, interval.high], expected, rtol=0, atol=near)
    assert (interval.level, interval.resamples) == (0.95, 70)
    assert map_interval(labels, scores, np.ones(4, bool), 70, seed=5) == interval


def test_four_times_the_images_halve_the_interval():
    widths = []
    for images in (500, 2000):
        interval = map_interval(*split(images), np.ones(4, bool), 300, seed=0)
        assert interval is not None
        assert interval.low < sklearn_map(*split(images)) < interval.high
        widths.append(interval.high - interval.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.3)


def test_only_included_classes_and_known_labels_count():
    labels, scores = split(50)
    labels[::4, 1] = UNKNOWN
    other = np.where(labels == UNKNOWN, np.float32(9), scores)
    other[:, 3] = 0
    included = np.array([True, True, True, False])
    one, two = (map_interval(labels, x, included, 20, 0) for x in (scores, other))
    assert one == two


def test_fewer_resamples_if_they_would_take_long(monkeypatch):
    monkeypatch.setattr(bootstrap, "MAX_LABELS", 50 * 4 * 7)
    labels, scores = split(50)
    interval = map_interval(labels, scores, np.ones(4, bool), 1000, 0)
    assert interval is not None and interval.resamples == 7


@pytest.mark.parametrize(("included", "resamples"), [(False, 10), (True, 0)])
def test_nothing_to_resample(included, resamples):
    labels, scores = split(50)
    assert map_interval(labels, scores, np.full(4, included), resamples, 0) is None
