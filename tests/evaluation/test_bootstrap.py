"""The bootstrap intervals, with average precisions and AUROC compared to scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from tolerances import sum_atol

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.evaluation import bootstrap
from mlcls_jax.evaluation.bootstrap import RankedClass, bootstrap_intervals


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1, 4, 1000]))
def test_weights_are_the_sample_weights_of_scikit_learn(seed, images, levels):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([1, 0, UNKNOWN], np.int8), images, p=[0.3, 0.5, 0.2])
    labels[rng.integers(images)] = 1
    scores = rng.integers(0, levels + 1, images) / levels
    weights = rng.poisson(1, (images, 5)).astype(np.float32)
    ranked, known = RankedClass(labels, scores), labels != UNKNOWN
    results = (
        (average_precision_score, ranked.average_precisions(weights), False),
        (roc_auc_score, ranked.aurocs(weights), True),
    )
    for function, got, needs_negatives in results:
        for value, weight in zip(got, weights.T, strict=True):
            negatives = weight[labels == 0].sum()
            if weight[labels == 1].sum() == 0 or (needs_negatives and negatives == 0):
                assert np.isnan(value)
                continue
            expected = function(labels[known], scores[known], sample_weight=weight[known])
            near = sum_atol(images + 1, 1.0)  # the parts of a mean, which are divided by their sum
            assert value == pytest.approx(expected, abs=near)


def split(images, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, 4)) < 0.3).astype(np.int8)
    return labels, (labels + rng.normal(size=labels.shape)).astype(np.float32)


def sklearn_map(labels, scores) -> float:
    columns = zip(labels.T, scores.T, strict=True)
    return float(np.mean([average_precision_score(*column) for column in columns]))


def interval_of(labels, scores, included, resamples, seed=0, name="mAP"):
    return bootstrap_intervals(labels, scores, included, resamples, seed).means[name]


def sklearn_auroc(labels, scores) -> float:
    return float(roc_auc_score(labels, scores))


@pytest.mark.parametrize(("name", "metric"), [("mAP", sklearn_map), ("AUROC", sklearn_auroc)])
def test_the_interval_is_that_of_resampled_rows_less_their_bias(name, metric):
    labels, scores = split(60)
    interval = interval_of(labels, scores, np.ones(4, bool), 70, 5, name)
    rng = np.random.default_rng(5)
    rows = [rng.integers(0, 60, 60) for _ in range(70)]
    values = [metric(labels[r], scores[r]) for r in rows]
    expected = np.percentile(values, [2.5, 97.5]) - np.mean(values) + metric(labels, scores)
    near = sum_atol(len(labels) + 1, 1.0)
    np.testing.assert_allclose([interval.low, interval.high], expected, rtol=0, atol=near)
    assert (interval.level, interval.resamples) == (0.95, 70)
    assert interval_of(labels, scores, np.ones(4, bool), 70, 5, name) == interval


def rare_classes(rng, images=400, classes=12):
    """Draws labels of classes of which half have one to ten positives, and scores."""
    frequencies = np.geomspace(0.004, 0.2, classes)
    labels = (rng.random((images, classes)) < frequencies).astype(np.int8)
    image_quality = 0.3 * rng.normal(size=(images, 1)) * (2 * labels - 1)
    scores = 1.6 * labels + rng.normal(size=labels.shape) + image_quality
    return labels, scores.astype(np.float32), labels.any(axis=0)


def test_the_interval_is_around_the_metric_if_classes_are_rare():
    rng = np.random.default_rng(0)
    off: dict[str, list[float]] = {"mAP": [], "AUROC": []}
    for _ in range(20):
        labels, scores, included = rare_classes(rng)
        intervals = bootstrap_intervals(labels, scores, included, 200, 0).means
        for name, metric in (("mAP", sklearn_map), ("AUROC", sklearn_auroc)):
            value, interval = metric(labels[:, included], scores[:, included]), intervals[name]
            assert interval.low < value < interval.high
            width = interval.high - interval.low
            off[name].append((interval.high + interval.low - 2 * value) / width)
    # Of half the width; 0.46 for mAP without the subtraction.
    assert all(abs(np.mean(values)) < 0.15 for values in off.values())


def test_intervals_contain_the_expected_map_about_as_often_as_they_say():
    rng, once = np.random.default_rng(1), np.ones((400, 1), np.float32)

    def point(labels, scores, included):
        ranked = [RankedClass(labels[:, c], scores[:, c]) for c in np.flatnonzero(included)]
        return np.mean([one.average_precisions(once)[0] for one in ranked])

    expected = np.mean([point(*rare_classes(rng)) for _ in range(300)])
    covered = 0
    for _ in range(150):
        interval = interval_of(*rare_classes(rng), resamples=128)
        covered += interval.low <= expected <= interval.high
    assert 0.87 <= covered / 150 <= 0.99


def test_four_times_the_images_halve_the_interval():
    widths = []
    for images in (500, 2000):
        interval = interval_of(*split(images), np.ones(4, bool), 300)
        assert interval.low < sklearn_map(*split(images)) < interval.high
        widths.append(interval.high - interval.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.3)


def test_only_included_classes_and_known_labels_count():
    labels, scores = split(50)
    labels[::4, 1] = UNKNOWN
    other = np.where(labels == UNKNOWN, np.float32(9), scores)
    other[:, 3] = 0
    included = np.array([True, True, True, False])
    one, two = (bootstrap_intervals(labels, x, included, 20, 0) for x in (scores, other))
    assert one == two and set(one.means) == {"mAP", "AUROC"}
    assert len(one.class_auroc) == 3


def test_fewer_resamples_if_they_would_take_long(monkeypatch):
    monkeypatch.setattr(bootstrap, "MAX_LABELS", 50 * 4 * 7)
    labels, scores = split(50)
    assert interval_of(labels, scores, np.ones(4, bool), 1000).resamples == 7


@pytest.mark.parametrize(("included", "resamples"), [(False, 10), (True, 0)])
def test_nothing_to_resample(included, resamples):
    labels, scores = split(50)
    nothing = bootstrap_intervals(labels, scores, np.full(4, included), resamples, 0)
    assert nothing.means == {} and nothing.class_auroc == [None] * (4 * included)


def test_a_class_without_negatives_has_no_auroc():
    labels, scores = split(50)
    labels[:, 0] = 1
    with_it, without = (
        bootstrap_intervals(labels, scores, np.array(included), 20, 0)
        for included in ([True, True, True, True], [False, True, True, True])
    )
    assert with_it.means["AUROC"] == without.means["AUROC"]
    assert with_it.means["mAP"] != without.means["mAP"]
    assert with_it.class_auroc == [None, *without.class_auroc]
    assert set(bootstrap_intervals(labels, scores, np.arange(4) == 0, 20, 0).means) == {"mAP"}


def test_the_interval_of_a_class_is_that_of_the_class_alone():
    labels, scores = split(60)
    every = bootstrap_intervals(labels, scores, np.ones(4, bool), 70, 5).class_auroc
    for column in range(4):
        alone = interval_of(labels, scores, np.arange(4) == column, 70, 5, "AUROC")
        assert every[column] == alone


def test_classes_of_few_images_have_no_interval_of_their_own():
    labels, scores = split(60)
    labels[:, 0], labels[:, 1] = np.arange(60) < 4, np.arange(60) >= 4
    labels[:, 2], labels[:, 3] = np.arange(60) < 5, np.arange(60) >= 5
    found = bootstrap_intervals(labels, scores, np.ones(4, bool), 20, 0).class_auroc
    assert [interval is None for interval in found] == [True, True, False, False]
