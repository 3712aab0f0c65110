"""From logits to yes or no: what is tuned on the validation images and kept with a checkpoint.

Thresholds flatter on the images that they were tuned on.  There, `cross_fit` decides each image
by what is tuned on the others; everywhere else the kept `Decisions` are used as they are.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dacite
import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from mlcls_jax.config import Evaluation
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.evaluation.base_rate import BaseRate, probabilities
from mlcls_jax.evaluation.calibration import calibration_error, fit_temperatures
from mlcls_jax.evaluation.metrics import (
    THRESHOLD,
    classes_to_average,
    decision_values,
    finite_or_none,
)
from mlcls_jax.evaluation.thresholds import tune

FOLDS = 5


@dataclass(frozen=True)
class ThresholdCriterion:
    """What is tuned; the fields are those of `config.Evaluation`."""

    threshold_criterion: str
    threshold_target: float
    min_positives_to_tune: int
    calibration: str

    @property
    def text(self) -> str:
        """Such as "f1" or "precision 0.9"."""
        return self.threshold_criterion + (
            "" if self.threshold_criterion == "f1" else f" {self.threshold_target:g}"
        )


def criterion_from_config(evaluation: Evaluation) -> ThresholdCriterion:
    """The rule that a config asks for."""
    e = evaluation
    return ThresholdCriterion(
        e.threshold_criterion, e.threshold_target, e.min_positives_to_tune, e.calibration
    )


@dataclass(frozen=True)
class DecisionRule:
    """Which classes are said to be in an image.

    criterion: that they were tuned by; None where nothing was tuned.
    thresholds: per class, of the probabilities that `probabilities` gives.
    temperatures: per class; 1 without calibration.
    pooled: classes with too few positives for a threshold of their own.
    unreached_classes: classes in which no threshold reaches the precision that was wanted.
    """

    criterion: ThresholdCriterion | None
    thresholds: tuple[float, ...]
    temperatures: tuple[float, ...]
    pooled: tuple[str, ...] = ()
    unreached_classes: tuple[str, ...] = ()

    def probabilities(
        self, logits: Float[np.ndarray, "image class"]
    ) -> Float[np.ndarray, "image class"]:
        """Sigmoid of the logits over their temperatures, in float64."""
        return expit(logits.astype(np.float64) / np.array(self.temperatures))

    def present(
        self, probabilities: Float[np.ndarray, "image class"]
    ) -> Bool[np.ndarray, "image class"]:
        """True where the class is said to be there."""
        return probabilities >= np.array(self.thresholds)


def untuned_rule(classes: Sequence[str]) -> DecisionRule:
    """One half for every class, and no calibration."""
    return DecisionRule(None, (THRESHOLD,) * len(classes), (1.0,) * len(classes))


def fit_decision_rule(
    table: LabelTable,
    logits: np.ndarray,
    included_classes: Sequence[bool],
    rule: ThresholdCriterion,
) -> DecisionRule:
    """Tunes on images and their logits, float32 [image, class], finite.

    Args:
        table: labels of the images; unknown ones have no influence.
        logits: of the parameters that the decisions are kept with.
        included_classes: per class, whether it is in the means; others are not pooled.
        rule: what to tune.
    """
    labels, means = table.labels, np.asarray(included_classes)
    temperatures = np.ones(labels.shape[1])
    if rule.calibration != "none":
        per_class = rule.calibration == "class"
        temperatures = fit_temperatures(
            labels, logits, means, rule.min_positives_to_tune, per_class
        )
        logits = logits / temperatures
    tuned = tune(
        labels,
        logits,
        means,
        rule.threshold_criterion,
        rule.threshold_target,
        rule.min_positives_to_tune,
    )
    return DecisionRule(
        rule,
        tuple(map(float, expit(tuned.thresholds))),
        tuple(map(float, temperatures)),
        _names(table.classes, tuned.pooled),
        _names(table.classes, tuned.unreached_classes),
    )


def cross_fit(
    table: LabelTable,
    logits: np.ndarray,
    included_classes: Sequence[bool],
    rule: ThresholdCriterion,
) -> tuple[np.ndarray, np.ndarray]:
    """What decisions tuned on other images say of each.

    Each of FOLDS parts is decided by what `decide` tunes on the others, where a class needs its
    share of the positives that the rule wants.

    Args: as of `decide`.

    Returns:
        Probabilities, float64 [image, class], and bool [image, class].
    """
    fold = folds(table.filenames)
    fewer = dataclasses.replace(
        rule, min_positives_to_tune=max(1, rule.min_positives_to_tune * (FOLDS - 1) // FOLDS)
    )
    probabilities = np.zeros(logits.shape)
    present = np.zeros(logits.shape, bool)
    for number in range(FOLDS):
        own, rest = fold == number, fold != number
        decision_rule = fit_decision_rule(
            table.take(np.flatnonzero(rest)), logits[rest], included_classes, fewer
        )
        probabilities[own] = decision_rule.probabilities(logits[own])
        present[own] = decision_rule.present(probabilities[own])
    return probabilities, present


def folds(filenames: Sequence[str]) -> np.ndarray:
    """int64 [image], 0 to FOLDS - 1: of equal sizes, by a hash of the names, in any order."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in filenames]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    result = np.zeros(len(order), np.int64)
    result[order] = np.arange(len(order)) % FOLDS
    return result


def decision_rule_from_dict(values: dict[str, Any]) -> DecisionRule:
    """Of `dataclasses.asdict` after a way through JSON.

    Raises:
        ValueError: a field is missing, unknown or of another type, or a number is none that
            `decide` gives.
    """
    try:
        decision_rule = dacite.from_dict(
            DecisionRule, values, dacite.Config(strict=True, cast=[tuple])
        )
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        raise ValueError(f"decisions: {' '.join(str(error).split())}") from error
    if not all(0 < temperature < math.inf for temperature in decision_rule.temperatures):
        raise ValueError("decisions: a temperature is not above 0 and finite")
    if not all(0 <= threshold <= 1 for threshold in decision_rule.thresholds):
        raise ValueError("decisions: a threshold is no probability")
    return decision_rule


def _names(classes: Sequence[str], chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(name for name, there in zip(classes, chosen, strict=True) if there)


def threshold_report(
    table: LabelTable,
    logits: np.ndarray,
    base: BaseRate,
    decision_rule: DecisionRule,
    tuned_here: bool,
) -> dict[str, Any]:
    """The decisions and their figures, JSON-ready.

    Args:
        table: labels of the images.
        logits: float32 [image, class].
        base: of the run.
        decision_rule: of the checkpoint.
        tuned_here: whether they were tuned on these images, which others then have to decide.

    Returns:
        tuned_for: such as "f1"; None where nothing was tuned.
        thresholds: probability per class name.
        at_thresholds: CP, CR, CF1, OP, OR, OF1 by these thresholds; None where none were tuned.
        cross_fitted: whether at_thresholds and ece_after are.
        calibration: temperature per class name; expected calibration error of the plain sigmoid
            (ece_before), and with the temperatures (ece_after; None without).
    """
    labels, rule = table.labels, decision_rule.criterion
    values, after = None, float("nan")
    if rule is not None:
        if tuned_here:
            predicted, present = cross_fit(table, logits, base.included_classes, rule)
        else:
            predicted = decision_rule.probabilities(logits)
            present = decision_rule.present(predicted)
        included = classes_to_average(labels, np.array(base.included_classes))
        values = finite_or_none(decision_values(labels, present, included))
        if rule.calibration != "none":
            after = calibration_error(labels, predicted)
    errors = {"ece_before": calibration_error(labels, probabilities(logits)), "ece_after": after}
    return {
        "tuned_for": None if rule is None else rule.text,
        "thresholds": dict(zip(table.classes, decision_rule.thresholds, strict=True)),
        "at_thresholds": values,
        "cross_fitted": rule is not None and tuned_here,
        "calibration": {
            "temperature": dict(zip(table.classes, decision_rule.temperatures, strict=True)),
            **finite_or_none(errors),
        },
    }


def describe_threshold_report(report: dict[str, Any], decision_rule: DecisionRule) -> list[str]:
    """Lines on where thresholds and temperatures are from, for a person."""
    rule = decision_rule.criterion
    if rule is None:
        return [
            "Thresholds: one half, as none were tuned for this checkpoint; "
            "--split val --threshold-criterion f1 tunes and keeps them"
        ]
    how = "as tuned on val"
    if report["cross_fitted"]:
        how = f"cross-fitted: each of {FOLDS} parts decided by what is tuned on the others"
    lines = [f"At thresholds: for {rule.text}, {how}; the model column: at one half"]
    if decision_rule.pooled:
        lines.append(
            f"Threshold of all classes together, for fewer than "
            f"{rule.min_positives_to_tune} positives in val: {', '.join(decision_rule.pooled)}"
        )
    if names := ", ".join(decision_rule.unreached_classes):
        lines.append(f"No threshold reaches {rule.text} in val: {names}")
    return [*lines, _calibration(report["calibration"], rule.calibration)]


def _calibration(report: dict[str, Any], kind: str) -> str:
    before, after = (
        "none" if error is None else f"{error:.4f}"
        for error in (report["ece_before"], report["ece_after"])
    )
    if kind == "none":
        return f"Calibration: off, expected error {before}"
    low, high = min(report["temperature"].values()), max(report["temperature"].values())
    temperature = f"{low:.3f}" if kind == "one" else f"{low:.3f} to {high:.3f}"
    return f"Calibration: temperature {temperature}, expected error {before}, after it {after}"


def with_threshold(decision_rule: DecisionRule, threshold: float | None) -> DecisionRule:
    """The same probabilities, and one threshold for all classes, if it is given."""
    if threshold is None:
        return decision_rule
    return dataclasses.replace(
        decision_rule, thresholds=(threshold,) * len(decision_rule.thresholds)
    )


def describe_thresholds(decision_rule: DecisionRule, threshold: float | None) -> str:
    """One line: where the thresholds are from."""
    if threshold is not None:
        return f"threshold: {threshold:g} for every class"
    if decision_rule.criterion is None:
        return (
            f"thresholds: {decision_rule.thresholds[0]:g} for every class, as none were tuned for "
            "this checkpoint; evaluate --split val --threshold-criterion f1 tunes and keeps them"
        )
    low, high = min(decision_rule.thresholds), max(decision_rule.thresholds)
    tuned_for = decision_rule.criterion.text
    return f"thresholds: per class, {low:.2f} to {high:.2f}, tuned on val for {tuned_for}"
