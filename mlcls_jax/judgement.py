"""How good the decisions of a checkpoint are on some pictures, in figures and in words."""

from typing import Any

import numpy as np

from mlcls_jax.calibration import calibration_error
from mlcls_jax.data.labels import LabelTable
from mlcls_jax.decisions import FOLDS, Decisions, cross_fit
from mlcls_jax.metrics import decision_values, finite_or_none, included_classes
from mlcls_jax.scoring import BaseRate, probabilities


def judge(
    table: LabelTable, logits: np.ndarray, base: BaseRate, decisions: Decisions, tuned_here: bool
) -> dict[str, Any]:
    """The decisions and their figures, JSON-ready.

    Args:
        table: labels of the pictures.
        logits: float32 [picture, class].
        base: of the run.
        decisions: of the checkpoint.
        tuned_here: whether they were tuned on these pictures, which others then have to decide.

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


def explain(judged: dict[str, Any], decisions: Decisions) -> list[str]:
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
