"""What the report is about: a run's config, records, labels and best evaluation."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit

from mlcls_jax.config import Config
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.diagnose import diagnose
from mlcls_jax.diagnosis.finding import Finding
from mlcls_jax.evaluation.decision_rule import DecisionRule
from mlcls_jax.run.best_scores import BestEvaluation, read_best_evaluation
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.run.trained_model import read_decision_rule
from mlcls_jax.run.workdir import DECISION_RULE, RAW, read_config, read_splits_of

_TINY = 1e-6  # predictions have six decimals


@dataclass(frozen=True, eq=False)
class Scored:
    """The best evaluation of the validation images.

    table: labels of the images that could be read.
    probabilities: float64 [image, class].
    present: bool [image, class], by the thresholds.
    """

    table: LabelTable
    probabilities: np.ndarray
    present: np.ndarray


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """All that a report is made from.

    splits: labels of the run.
    kept: the best evaluation, None where none was kept; decisions: by which it decides.
    """

    workdir: Path
    config: Config
    records: list[dict[str, Any]]
    splits: dict[str, LabelTable]
    kept: BestEvaluation | None
    decision_rule: DecisionRule | None

    @cached_property
    def scored(self) -> Scored | None:
        """The best evaluation with its labels."""
        if self.kept is None or self.decision_rule is None:
            return None
        val = self.splits["val"]
        row = {name: number for number, name in enumerate(val.filenames)}
        table = val.take([row[name] for name in self.kept.filenames])
        probabilities = self.decision_rule.probabilities(self.kept.logits)
        return Scored(table, probabilities, self.decision_rule.present(probabilities))

    @cached_property
    def findings(self) -> list[Finding]:
        """The diagnosis."""
        scored = self.scored
        of_val = scored and (scored.table, scored.probabilities)
        return diagnose(self.config, self.records, self.splits["train"], self.splits["val"], of_val)


def gather(workdir: Path, splits: dict[str, LabelTable] | None = None) -> ReportInputs:
    """Reads a workdir.

    Args:
        workdir: of a run, which may still be going on.
        splits: its labels; without them, they are read.

    Raises:
        ValueError: it holds no run, or its labels or files cannot be read.
    """
    config = read_config(workdir)
    splits = splits or read_splits_of(workdir, config.data)
    records, kept = read_metrics(workdir), read_best_evaluation(workdir)
    if kept is None:
        kept = _of_predictions(workdir, splits["val"])
    elif kept.step not in {record["step"] for record in records}:
        kept = None  # of a stretch that was lost
    decision_rule = None
    if kept is not None:
        decision_rule = kept.decision_rule
        if (workdir / DECISION_RULE).exists():  # tuned later
            later = {"step": kept.step, "classes": splits["val"].classes}
            tuned = read_decision_rule(workdir, later)
            decision_rule = tuned if tuned.criterion else decision_rule
    return ReportInputs(workdir, config, records, splits, kept, decision_rule)


def _of_predictions(workdir: Path, val: LabelTable) -> BestEvaluation | None:
    """What `evaluate` has written for val, of a run from before scores.npz."""
    predictions, evaluated = workdir / "predictions_val.csv", workdir / "eval_val.json"
    if not (predictions.exists() and evaluated.exists()):
        return None
    try:
        result = json.loads(evaluated.read_text(encoding="utf-8"))
        frame = pd.read_csv(predictions, keep_default_na=False)
        names = tuple(map(str, frame.iloc[:, 0]))
        probabilities = frame.iloc[:, 1:].to_numpy(np.float64)
        thresholds = tuple(float(result["thresholds"][name]) for name in val.classes)
        if probabilities.shape[1] != len(val.classes) or set(names) - set(val.filenames):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # of another version
    logits = logit(np.clip(probabilities, _TINY, 1 - _TINY)).astype(np.float32)
    decision_rule = DecisionRule(None, thresholds, (1.0,) * len(val.classes))
    return BestEvaluation(
        step=result["step"],
        weights=result.get("weights", RAW),
        filenames=names,
        logits=logits,
        decision_rule=decision_rule,
        devices="",
        groups={},
    )
