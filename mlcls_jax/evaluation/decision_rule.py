"""Decision rules: thresholds and temperatures per class, tuned on val and kept with a checkpoint.

This module is the only entry point for thresholds; thresholds.py and calibration.py are its parts.
Callers use, in this order:

    criterion_from_config   what to tune, from the config
    fit_decision_rule       tunes a DecisionRule; untuned_rule is the one without tuning
    DecisionRule            its `probabilities` and `present` decide which classes are present
    with_threshold          replaces the thresholds by one number
    threshold_report        the figures of a rule on labelled images
    describe_thresholds, describe_threshold_report          the same in words
    decision_rule_from_dict     reads a rule from JSON

Metrics on the images that the thresholds were tuned on are too good. On these, `threshold_report`
therefore cross-fits: each image is decided by thresholds that were tuned on other images.
"""

import dataclasses
import hashlib
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
from mlcls_jax.evaluation.calibration import (
    MAX_TEMPERATURE,
    calibration_error,
    fit_temperatures,
)
from mlcls_jax.evaluation.image_metrics import image_decision_values
from mlcls_jax.evaluation.metrics import (
    THRESHOLD,
    classes_to_average,
    decision_values,
    finite_or_none,
)
from mlcls_jax.evaluation.thresholds import tune
from mlcls_jax.system.console import one_line

FOLDS = 5


@dataclass(frozen=True)
class ThresholdCriterion:
    """What the thresholds are tuned for.

    Attributes:
        threshold_criterion: "f1", "precision" or "recall".
        threshold_target: the precision or recall to reach; unused for "f1".
        min_positives_to_tune: positives that a class needs for its own threshold.
        calibration: "none", "one" temperature for all classes, or one per "class".

    The fields are those of `config.Evaluation`.
    """

    threshold_criterion: str
    threshold_target: float
    min_positives_to_tune: int
    calibration: str

    @property
    def text(self) -> str:
        """Returns the criterion in words.

        >>> ThresholdCriterion("precision", 0.9, 10, "none").text
        'precision 0.9'
        """
        if self.threshold_criterion == "f1":
            return "f1"
        return f"{self.threshold_criterion} {self.threshold_target:g}"


def criterion_from_config(evaluation: Evaluation) -> ThresholdCriterion:
    """Returns the criterion of a config."""
    return ThresholdCriterion(
        evaluation.threshold_criterion,
        evaluation.threshold_target,
        evaluation.min_positives_to_tune,
        evaluation.calibration,
    )


@dataclass(frozen=True)
class DecisionRule:
    """Decides which classes are predicted present in an image.

    Attributes:
        criterion: what the thresholds were tuned for; None if they were not tuned.
        thresholds: per class, for the probabilities that `probabilities` returns.
        temperatures: per class; 1 without calibration.
        pooled: names of the classes with too few positives for their own threshold.
        unreached_classes: names of the classes in which no threshold reaches the target precision.
        tuned_on: the predictions that it was tuned on, in words.
    """

    criterion: ThresholdCriterion | None
    thresholds: tuple[float, ...]
    temperatures: tuple[float, ...]
    pooled: tuple[str, ...] = ()
    unreached_classes: tuple[str, ...] = ()
    tuned_on: str = "val"

    def probabilities(
        self, logits: Float[np.ndarray, "image class"]
    ) -> Float[np.ndarray, "image class"]:
        """Returns the sigmoid of the logits divided by their temperatures, in float64."""
        return expit(logits.astype(np.float64) / np.array(self.temperatures))

    def present(
        self, probabilities: Float[np.ndarray, "image class"]
    ) -> Bool[np.ndarray, "image class"]:
        """Returns True for each class whose probability reaches its threshold."""
        return probabilities >= np.array(self.thresholds)


def untuned_rule(classes: Sequence[str]) -> DecisionRule:
    """Returns the rule with a threshold of 0.5 for every class and no calibration.

    >>> rule = untuned_rule(("cat", "dog"))
    >>> rule.present(rule.probabilities(np.array([[0.0, -1.0]]))).tolist()
    [[True, False]]
    """
    return DecisionRule(None, (THRESHOLD,) * len(classes), (1.0,) * len(classes))


def fit_decision_rule(
    table: LabelTable,
    logits: np.ndarray,
    included_classes: Sequence[bool],
    criterion: ThresholdCriterion,
) -> DecisionRule:
    """Returns the decision rule that is best on the images given.

    Args:
        table: labels of the images; unknown labels have no influence.
        logits: float32 [image, class], finite, of the parameters that the rule is kept with.
        included_classes: per class, whether the averages include it; others are not pooled.
        criterion: what to tune for.
    """
    labels, included = table.labels, np.asarray(included_classes)
    temperatures = np.ones(labels.shape[1])
    if criterion.calibration != "none":
        per_class = criterion.calibration == "class"
        temperatures = fit_temperatures(
            table.train_labels, logits, included, criterion.min_positives_to_tune, per_class
        )
        logits = logits / temperatures
    tuned = tune(
        labels,
        logits,
        included,
        criterion.threshold_criterion,
        criterion.threshold_target,
        criterion.min_positives_to_tune,
    )
    return DecisionRule(
        criterion,
        tuple(map(float, expit(tuned.thresholds))),
        tuple(map(float, temperatures)),
        _names(table.classes, tuned.pooled),
        _names(table.classes, tuned.unreached_classes),
    )


def cross_fit(
    table: LabelTable,
    logits: np.ndarray,
    included_classes: Sequence[bool],
    criterion: ThresholdCriterion,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns predictions for each image from rules that were tuned on other images.

    The images are divided into FOLDS parts. Each part is decided by a rule tuned on the others,
    for which a class needs only its share of min_positives_to_tune.

    Args: see `fit_decision_rule`.

    Returns:
        Probabilities, float64 [image, class], and whether a class is predicted present, bool
        [image, class].
    """
    fold = folds(table.filenames)
    fewer = max(1, criterion.min_positives_to_tune * (FOLDS - 1) // FOLDS)
    criterion = dataclasses.replace(criterion, min_positives_to_tune=fewer)
    probabilities = np.zeros(logits.shape)
    present = np.zeros(logits.shape, bool)
    for index in range(FOLDS):
        held_out, rest = fold == index, fold != index
        decision_rule = fit_decision_rule(
            table.take(np.flatnonzero(rest)), logits[rest], included_classes, criterion
        )
        probabilities[held_out] = decision_rule.probabilities(logits[held_out])
        present[held_out] = decision_rule.present(probabilities[held_out])
    return probabilities, present


def folds(filenames: Sequence[str]) -> np.ndarray:
    """Returns the fold of each image, 0 to FOLDS - 1.

    Folds have equal sizes. They depend on a hash of the file names, not on their order.

    Returns:
        Int64 [image].

    >>> np.bincount(folds([f"{i}.jpg" for i in range(10)])).tolist()
    [2, 2, 2, 2, 2]
    """
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in filenames]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    result = np.zeros(len(order), np.int64)
    result[order] = np.arange(len(order)) % FOLDS
    return result


def decision_rule_from_dict(values: dict[str, Any]) -> DecisionRule:
    """Returns the decision rule that `dataclasses.asdict` has turned into JSON.

    Raises:
        ValueError: a field is missing, unknown or of another type, or a number is impossible.
    """
    try:
        decision_rule = dacite.from_dict(
            DecisionRule, values, dacite.Config(strict=True, cast=[tuple])
        )
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        raise ValueError(f"decision rule: {one_line(error)}") from error
    lowest, highest = 0.999 / MAX_TEMPERATURE, 1.001 * MAX_TEMPERATURE  # rounded in the file
    if not all(lowest <= temperature <= highest for temperature in decision_rule.temperatures):
        raise ValueError(
            f"decision rule: every temperature must be between {1 / MAX_TEMPERATURE:g} and "
            f"{MAX_TEMPERATURE:g}, as calibration fits them"
        )
    if not all(0 <= threshold <= 1 for threshold in decision_rule.thresholds):
        raise ValueError("decision rule: every threshold must be a probability")
    return decision_rule


def _names(classes: Sequence[str], chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(name for name, keep in zip(classes, chosen, strict=True) if keep)


def threshold_report(
    table: LabelTable,
    logits: np.ndarray,
    base: BaseRate,
    decision_rule: DecisionRule,
    tuned_here: bool,
) -> dict[str, Any]:
    """Returns a decision rule and its figures on labelled images, JSON-ready.

    Args:
        table: labels of the images.
        logits: float32 [image, class].
        base: class frequencies and included classes of the run.
        decision_rule: of the checkpoint.
        tuned_here: whether the rule was tuned on these images; its figures are then cross-fitted.

    Returns:
        A dictionary with

        tuned_for: the criterion, such as "f1"; None if nothing was tuned.
        thresholds: probability per class name.
        at_thresholds: what `decision_values` and `image_decision_values` return at these
            thresholds. None if nothing was tuned.
        cross_fitted: whether at_thresholds and ece_after are cross-fitted.
        calibration: temperature per class name; the expected calibration error of the plain sigmoid
            (ece_before) and with the temperatures (ece_after; None without calibration).
    """
    labels, criterion = table.labels, decision_rule.criterion
    values, after = None, float("nan")
    if criterion is not None:
        if tuned_here:
            predicted, present = cross_fit(table, logits, base.included_classes, criterion)
        else:
            predicted = decision_rule.probabilities(logits)
            present = decision_rule.present(predicted)
        included = classes_to_average(labels, np.array(base.included_classes))
        values = finite_or_none(
            decision_values(labels, present, included)
            | image_decision_values(labels, present, included)
        )
        if criterion.calibration != "none":
            after = calibration_error(table.train_labels, predicted)
    before = calibration_error(table.train_labels, probabilities(logits))
    errors = {"ece_before": before, "ece_after": after}
    return {
        "tuned_for": None if criterion is None else criterion.text,
        "thresholds": dict(zip(table.classes, decision_rule.thresholds, strict=True)),
        "at_thresholds": values,
        "cross_fitted": criterion is not None and tuned_here,
        "calibration": {
            "temperature": dict(zip(table.classes, decision_rule.temperatures, strict=True)),
            **finite_or_none(errors),
        },
    }


def describe_threshold_report(report: dict[str, Any], decision_rule: DecisionRule) -> list[str]:
    """Returns lines for the terminal on the thresholds and temperatures of an evaluation.

    Args:
        report: from `threshold_report`.
        decision_rule: the rule that the report is about.
    """
    criterion = decision_rule.criterion
    if criterion is None:
        return [
            "Thresholds: 0.5, as none were tuned for this checkpoint; "
            "--split val --threshold-criterion f1 tunes and keeps them"
        ]
    tuning = f"tuned on {decision_rule.tuned_on}"
    if report["cross_fitted"]:
        tuning = f"cross-fitted (each of {FOLDS} parts decided by thresholds tuned on the others)"
    lines = [f"At thresholds: for {criterion.text}, {tuning}; the model column is at 0.5"]
    if decision_rule.pooled:
        lines.append(
            f"Shared threshold of all classes, because of fewer than "
            f"{criterion.min_positives_to_tune} positives in {decision_rule.tuned_on}: "
            f"{', '.join(decision_rule.pooled)}"
        )
    if names := ", ".join(decision_rule.unreached_classes):
        lines.append(f"No threshold reaches {criterion.text} in {decision_rule.tuned_on}: {names}")
    return [*lines, _describe_calibration(report["calibration"], criterion.calibration)]


def _describe_calibration(report: dict[str, Any], kind: str) -> str:
    before, after = (
        "none" if error is None else f"{error:.4f}"
        for error in (report["ece_before"], report["ece_after"])
    )
    if kind == "none":
        return f"Calibration: off; expected calibration error {before}"
    low, high = min(report["temperature"].values()), max(report["temperature"].values())
    temperature = f"{low:.3f}" if kind == "one" else f"{low:.3f} to {high:.3f}"
    return (
        f"Calibration: temperature {temperature}; expected calibration error {before} before, "
        f"{after} after"
    )


def with_threshold(decision_rule: DecisionRule, threshold: float | None) -> DecisionRule:
    """Returns the rule with this threshold for all classes; the same rule if it is None.

    >>> with_threshold(untuned_rule(("cat", "dog")), 0.3).thresholds
    (0.3, 0.3)
    """
    if threshold is None:
        return decision_rule
    return dataclasses.replace(
        decision_rule, thresholds=(threshold,) * len(decision_rule.thresholds)
    )


def describe_thresholds(decision_rule: DecisionRule, threshold: float | None) -> str:
    """Returns a line that says how the thresholds were chosen.

    Args:
        decision_rule: of the checkpoint.
        threshold: the one that the user has set for all classes; None if none is set.

    >>> describe_thresholds(untuned_rule(("cat", "dog")), 0.3)
    'threshold: 0.3 for every class'
    """
    if threshold is not None:
        return f"threshold: {threshold:g} for every class"
    if decision_rule.criterion is None:
        return (
            f"thresholds: {decision_rule.thresholds[0]:g} for every class, as none were tuned for "
            "this checkpoint; evaluate --split val --threshold-criterion f1 tunes and keeps them"
        )
    low, high = min(decision_rule.thresholds), max(decision_rule.thresholds)
    tuned = f"tuned on {decision_rule.tuned_on} for {decision_rule.criterion.text}"
    return f"thresholds: per class, {low:.2f} to {high:.2f}, {tuned}"
