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
    decision_values,
    finite_or_none,
    included_classes,
)
from mlcls_jax.evaluation.thresholds import tune

FOLDS = 5


@dataclass(frozen=True)
class Rule:
    """What is tuned; the fields are those of `config.Evaluation`."""

    thresholds: str
    wanted: float
    tuned_positives: int
    calibration: str

    @property
    def text(self) -> str:
        """Such as "f1" or "precision 0.9"."""
        return self.thresholds + ("" if self.thresholds == "f1" else f" {self.wanted:g}")


def rule_of(evaluation: Evaluation) -> Rule:
    """The rule that a config asks for."""
    e = evaluation
    return Rule(e.thresholds, e.wanted, e.tuned_positives, e.calibration)


@dataclass(frozen=True)
class Decisions:
    """Which classes are said to be in an image.

    rule: that they were tuned by; None where nothing was tuned.
    thresholds: per class, of the probabilities that `probabilities` gives.
    temperatures: per class; 1 without calibration.
    pooled: classes with too few positives for a threshold of their own.
    missed: classes in which no threshold reaches the precision that was wanted.
    """

    rule: Rule | None
    thresholds: tuple[float, ...]
    temperatures: tuple[float, ...]
    pooled: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()

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


def untuned(classes: Sequence[str]) -> Decisions:
    """One half for every class, and no calibration."""
    return Decisions(None, (THRESHOLD,) * len(classes), (1.0,) * len(classes))


def decide(table: LabelTable, logits: np.ndarray, counted: Sequence[bool], rule: Rule) -> Decisions:
    """Tunes on images and their logits, float32 [image, class], finite.

    Args:
        table: labels of the images; unknown ones have no influence.
        logits: of the parameters that the decisions are kept with.
        counted: per class, whether it is in the means; others are not pooled.
        rule: what to tune.
    """
    labels, means = table.labels, np.asarray(counted)
    temperatures = np.ones(labels.shape[1])
    if rule.calibration != "none":
        per_class = rule.calibration == "class"
        temperatures = fit_temperatures(labels, logits, means, rule.tuned_positives, per_class)
        logits = logits / temperatures
    tuned = tune(labels, logits, means, rule.thresholds, rule.wanted, rule.tuned_positives)
    return Decisions(
        rule,
        tuple(map(float, expit(tuned.thresholds))),
        tuple(map(float, temperatures)),
        _names(table.classes, tuned.pooled),
        _names(table.classes, tuned.missed),
    )


def cross_fit(
    table: LabelTable, logits: np.ndarray, counted: Sequence[bool], rule: Rule
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
        rule, tuned_positives=max(1, rule.tuned_positives * (FOLDS - 1) // FOLDS)
    )
    probabilities = np.zeros(logits.shape)
    present = np.zeros(logits.shape, bool)
    for number in range(FOLDS):
        own, rest = fold == number, fold != number
        decisions = decide(table.take(np.flatnonzero(rest)), logits[rest], counted, fewer)
        probabilities[own] = decisions.probabilities(logits[own])
        present[own] = decisions.present(probabilities[own])
    return probabilities, present


def folds(filenames: Sequence[str]) -> np.ndarray:
    """int64 [image], 0 to FOLDS - 1: of equal sizes, by a hash of the names, in any order."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in filenames]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    result = np.zeros(len(order), np.int64)
    result[order] = np.arange(len(order)) % FOLDS
    return result


def from_dict(values: dict[str, Any]) -> Decisions:
    """Of `dataclasses.asdict` after a way through JSON.

    Raises:
        ValueError: a field is missing, unknown or of another type, or a number is none that
            `decide` gives.
    """
    try:
        decisions = dacite.from_dict(Decisions, values, dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        raise ValueError(f"decisions: {' '.join(str(error).split())}") from error
    if not all(0 < temperature < math.inf for temperature in decisions.temperatures):
        raise ValueError("decisions: a temperature is not above 0 and finite")
    if not all(0 <= threshold <= 1 for threshold in decisions.thresholds):
        raise ValueError("decisions: a threshold is no probability")
    return decisions


def _names(classes: Sequence[str], chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(name for name, there in zip(classes, chosen, strict=True) if there)


def judge(
    table: LabelTable, logits: np.ndarray, base: BaseRate, decisions: Decisions, tuned_here: bool
) -> dict[str, Any]:
    """The decisions and their figures, JSON-ready.

    Args:
        table: labels of the images.
        logits: float32 [image, class].
        base: of the run.
        decisions: of the checkpoint.
        tuned_here: whether they were tuned on these images, which others then have to decide.

    Returns:
        tuned_for: such as "f1"; None where nothing was tuned.
        thresholds: probability per class name.
        at_thresholds: CP, CR, CF1, OP, OR, OF1 by these thresholds; None where none were tuned.
        cross_fitted: whether at_thresholds and ece_after are.
        calibration: temperature per class name; expected calibration error of the plain sigmoid
            (ece_before), and with the temperatures (ece_after; None without).
    """
    labels, rule = table.labels, decisions.rule
    values, after = None, float("nan")
    if rule is not None:
        if tuned_here:
            predicted, present = cross_fit(table, logits, base.counted, rule)
        else:
            predicted = decisions.probabilities(logits)
            present = decisions.present(predicted)
        included = included_classes(labels, np.array(base.counted))
        values = finite_or_none(decision_values(labels, present, included))
        if rule.calibration != "none":
            after = calibration_error(labels, predicted)
    errors = {"ece_before": calibration_error(labels, probabilities(logits)), "ece_after": after}
    return {
        "tuned_for": None if rule is None else rule.text,
        "thresholds": dict(zip(table.classes, decisions.thresholds, strict=True)),
        "at_thresholds": values,
        "cross_fitted": rule is not None and tuned_here,
        "calibration": {
            "temperature": dict(zip(table.classes, decisions.temperatures, strict=True)),
            **finite_or_none(errors),
        },
    }


def describe_report(judged: dict[str, Any], decisions: Decisions) -> list[str]:
    """Lines on where thresholds and temperatures are from, for a person."""
    rule = decisions.rule
    if rule is None:
        return [
            "Thresholds: one half, as none were tuned for this checkpoint; "
            "--split val --thresholds f1 tunes and keeps them"
        ]
    how = "as tuned on val"
    if judged["cross_fitted"]:
        how = f"cross-fitted: each of {FOLDS} parts decided by what is tuned on the others"
    lines = [f"At thresholds: for {rule.text}, {how}; the model column: at one half"]
    if decisions.pooled:
        lines.append(
            f"Threshold of all classes together, for fewer than {rule.tuned_positives} positives "
            f"in val: {', '.join(decisions.pooled)}"
        )
    if decisions.missed:
        lines.append(f"No threshold reaches {rule.text} in val: {', '.join(decisions.missed)}")
    return [*lines, _calibration(judged["calibration"], rule.calibration)]


def _calibration(judged: dict[str, Any], kind: str) -> str:
    before, after = (
        "none" if error is None else f"{error:.4f}"
        for error in (judged["ece_before"], judged["ece_after"])
    )
    if kind == "none":
        return f"Calibration: off, expected error {before}"
    low, high = min(judged["temperature"].values()), max(judged["temperature"].values())
    temperature = f"{low:.3f}" if kind == "one" else f"{low:.3f} to {high:.3f}"
    return f"Calibration: temperature {temperature}, expected error {before}, after it {after}"


def with_threshold(decisions: Decisions, threshold: float | None) -> Decisions:
    """The same probabilities, and one threshold for all classes, if it is given."""
    if threshold is None:
        return decisions
    return dataclasses.replace(decisions, thresholds=(threshold,) * len(decisions.thresholds))


def describe_thresholds(decisions: Decisions, threshold: float | None) -> str:
    """One line: where the thresholds are from."""
    if threshold is not None:
        return f"threshold: {threshold:g} for every class"
    if decisions.rule is None:
        return (
            f"thresholds: {decisions.thresholds[0]:g} for every class, as none were tuned for this "
            "checkpoint; evaluate --split val --thresholds f1 tunes and keeps them"
        )
    low, high = min(decisions.thresholds), max(decisions.thresholds)
    return f"thresholds: per class, {low:.2f} to {high:.2f}, tuned on val for {decisions.rule.text}"
