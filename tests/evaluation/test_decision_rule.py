"""Decision rules: tuned, kept, and cross-fitted on the images that they were tuned on."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score

from mlcls_jax.config import Evaluation
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.evaluation.base_rate import BaseRate
from mlcls_jax.evaluation.decision_rule import (
    FOLDS,
    ThresholdCriterion,
    criterion_from_config,
    cross_fit,
    decision_rule_from_dict,
    describe_threshold_report,
    fit_decision_rule,
    folds,
    threshold_report,
    untuned_rule,
)

F1 = ThresholdCriterion("f1", 0.9, 10, "none")


def table(labels) -> LabelTable:
    labels = np.asarray(labels, np.int8)
    names = tuple(f"{i}.jpg" for i in range(len(labels)))
    return LabelTable(Path("p"), names, labels, tuple("abcdefghij"[: labels.shape[1]]))


def drawn(images=400, classes=3, seed=0, unknown=0.0):
    """Returns rare classes, so that 0.5 is a bad threshold, and informative logits."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, classes)) < 0.15).astype(np.int8)
    logits = (rng.normal(size=labels.shape) + 2 * labels - 3).astype(np.float32)
    labels[rng.random(labels.shape) < unknown] = UNKNOWN
    return table(labels), logits


def test_the_criterion_is_that_of_the_config():
    expected = ThresholdCriterion("f1", 0.9, 10, "one")
    assert criterion_from_config(Evaluation()) == expected
    assert F1.text == "f1"
    assert (
        criterion_from_config(Evaluation(threshold_criterion="recall", threshold_target=0.75)).text
        == "recall 0.75"
    )


def test_tuned_thresholds_are_better_than_0_5_and_survive_json():
    data, logits = drawn()
    decision_rule = fit_decision_rule(data, logits, [True] * 3, F1)
    probabilities = decision_rule.probabilities(logits)
    np.testing.assert_array_equal(probabilities, expit(logits.astype(np.float64)))
    tuned = f1_score(data.labels, decision_rule.present(probabilities), average="macro")
    assert tuned > f1_score(data.labels, probabilities >= 0.5, average="macro") + 0.1
    assert (
        decision_rule_from_dict(json.loads(json.dumps(dataclasses.asdict(decision_rule))))
        == decision_rule
    )


@pytest.mark.parametrize("calibration", ["one", "class"])
def test_a_temperature_moves_probabilities_and_thresholds_alike(calibration):
    data, logits = drawn()
    plain = fit_decision_rule(data, logits, [True] * 3, F1)
    calibrated = fit_decision_rule(
        data, logits, [True] * 3, dataclasses.replace(F1, calibration=calibration)
    )
    assert calibrated.temperatures != plain.temperatures == (1.0, 1.0, 1.0)
    assert len(set(calibrated.temperatures)) == (1 if calibration == "one" else 3)
    np.testing.assert_array_equal(
        calibrated.present(calibrated.probabilities(logits)),
        plain.present(plain.probabilities(logits)),
    )


def test_classes_with_a_shared_threshold_or_an_unreached_target_are_named():
    data, logits = drawn(classes=3)
    data.labels[:, 1] = 0
    data.labels[:4, 1] = 1
    logits[10, 2] = 50  # a confident mistake, and a precision of 1 is out of reach
    data.labels[10, 2] = 0
    decision_rule = fit_decision_rule(
        data, logits, [True] * 3, ThresholdCriterion("precision", 1.0, 10, "none")
    )
    assert decision_rule.pooled == ("b",)
    assert set(decision_rule.unreached_classes) == {"b", "c"}
    text = " ".join(
        describe_threshold_report(
            threshold_report(data, logits, base(3), decision_rule, False), decision_rule
        )
    )
    assert "fewer than 10 positives in val: b" in text
    assert "No threshold reaches precision 1 in val: b, c" in text


def base(classes) -> BaseRate:
    return BaseRate((0.15,) * classes, (True,) * classes)


def test_cross_fitted_figures_are_not_too_good():
    """With random scores, good figures on the images of the tuning are chance."""
    rng = np.random.default_rng(0)
    labels = (rng.random((100, 10)) < 0.5).astype(np.int8)
    data, logits = table(labels), rng.normal(size=labels.shape).astype(np.float32)
    criterion = ThresholdCriterion("precision", 0.7, 10, "none")
    decision_rule = fit_decision_rule(data, logits, [True] * 10, criterion)
    reports = [
        threshold_report(data, logits, base(10), decision_rule, here) for here in (False, True)
    ]
    in_sample, fitted = (values["at_thresholds"]["CP"] for values in reports)
    assert in_sample >= 0.7
    assert fitted < 0.6
    assert [values["cross_fitted"] for values in reports] == [False, True]


def test_the_temperature_fits_soft_labels_if_there_are_any():
    data, logits = drawn()
    soft = dataclasses.replace(data, targets=expit(logits / 2))
    rule = fit_decision_rule(soft, logits, [True] * 3, dataclasses.replace(F1, calibration="one"))
    assert rule.temperatures == pytest.approx((2.0,) * 3, rel=0.02)
    errors = threshold_report(soft, logits, base(3), rule, tuned_here=False)["calibration"]
    assert errors["ece_after"] < errors["ece_before"] / 10


@pytest.mark.parametrize("calibration", ["none", "class"])
def test_no_image_is_decided_by_its_own_labels(calibration):
    data, logits = drawn(150)
    criterion = dataclasses.replace(F1, calibration=calibration)
    before = cross_fit(data, logits, [True] * 3, criterion)
    part = folds(data.filenames) == 2
    turned = data.labels.copy()
    turned[part] = 1 - turned[part]
    after = cross_fit(dataclasses.replace(data, labels=turned), logits, [True] * 3, criterion)
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[part], two[part])
    assert (before[1][~part] != after[1][~part]).any()


def test_folds_are_equal_and_depend_on_file_names_only():
    names = [f"{i}.jpg" for i in range(23)]
    parts = folds(names)
    assert sorted(np.bincount(parts, minlength=FOLDS)) == [4, 4, 5, 5, 5]
    order = np.random.default_rng(0).permutation(23)
    np.testing.assert_array_equal(folds([names[i] for i in order]), parts[order])
    assert len(folds([])) == 0


def test_unknown_labels_have_no_influence():
    data, logits = drawn(unknown=0.3)
    known = data.labels != UNKNOWN
    other = np.where(known, logits, np.float32(7))
    criterion = dataclasses.replace(F1, calibration="class")
    assert fit_decision_rule(data, logits, [True] * 3, criterion) == fit_decision_rule(
        data, other, [True] * 3, criterion
    )
    one, two = (cross_fit(data, x, [True] * 3, criterion) for x in (logits, other))
    np.testing.assert_array_equal(one[1][known], two[1][known])
    decision_rule = fit_decision_rule(data, logits, [True] * 3, criterion)
    assert threshold_report(data, logits, base(3), decision_rule, True) == threshold_report(
        data, other, base(3), decision_rule, True
    )


@pytest.mark.parametrize("images", [1, 3])
def test_very_few_images_can_be_decided(images):
    data, logits = table(np.ones((images, 2))), np.zeros((images, 2), np.float32)
    criterion = dataclasses.replace(F1, calibration="one")
    decision_rule = fit_decision_rule(data, logits, [True] * 2, criterion)
    report = threshold_report(data, logits, base(2), decision_rule, True)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_an_untuned_rule_is_0_5_and_has_no_figures():
    data, logits = drawn()
    decision_rule = untuned_rule(data.classes)
    report = threshold_report(data, logits, base(3), decision_rule, True)
    assert report["at_thresholds"] is report["tuned_for"] is None
    assert report["thresholds"] == dict.fromkeys("abc", 0.5)
    assert report["calibration"]["ece_after"] is None
    assert "none were tuned" in describe_threshold_report(report, decision_rule)[0]


def test_calibration_is_reported_before_and_after():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2000, 3)).astype(np.float32)
    data = table(rng.random(logits.shape) < expit(logits))
    logits = 4 * logits
    criterion = dataclasses.replace(F1, calibration="one")
    decision_rule = fit_decision_rule(data, logits, [True] * 3, criterion)
    report = threshold_report(data, logits, base(3), decision_rule, True)
    errors = report["calibration"]
    assert errors["ece_after"] < 0.03 < 0.15 < errors["ece_before"]
    assert errors["temperature"]["a"] == pytest.approx(4, rel=0.1)
    line = describe_threshold_report(report, decision_rule)[-1]
    assert f"error {errors['ece_before']:.4f} before, {errors['ece_after']:.4f} after" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperatures": [1.0, 0.0]}, "temperature"),
        ({"temperatures": [1.0, float("inf")]}, "temperature"),
        ({"temperatures": [1.0, 1e-3]}, "temperature must be between 0.1 and 10"),
        ({"temperatures": [1.0, 1e3]}, "temperature"),
        ({"thresholds": [0.5, float("nan")]}, "threshold"),
        ({"thresholds": 0.5}, "not iterable"),
        ({"criterion": {}}, "criterion"),
        ({"more": 1}, "more"),
    ],
)
def test_impossible_decision_rules_are_refused(change, words):
    values = json.loads(json.dumps(dataclasses.asdict(untuned_rule(("a", "b")))))
    assert decision_rule_from_dict(values) == untuned_rule(("a", "b"))
    with pytest.raises(ValueError, match=f"decision rule: .*{words}"):
        decision_rule_from_dict(values | change)
