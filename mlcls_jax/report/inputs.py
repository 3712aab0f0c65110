"""Inputs of the report: the config, records, labels and best evaluation of a run."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit

from mlcls_jax.config import Config
from mlcls_jax.config.schema import has_folds
from mlcls_jax.data.card.data_card import DataCard
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_writing import unescaped_cell
from mlcls_jax.diagnosis.diagnose import diagnose
from mlcls_jax.diagnosis.finding import Evidence, Finding, Labels
from mlcls_jax.evaluation.decision_rule import DecisionRule
from mlcls_jax.run.best_scores import BestEvaluation, read_best_evaluation, read_decision_rule
from mlcls_jax.run.checkpoint_integrity import fold_folder
from mlcls_jax.run.data_card import read_card
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.run.workdir import DECISION_RULE, OUT_OF_FOLD, RAW, read_config, read_splits_of

_TINY = 1e-6  # predictions are written with six decimals


@dataclass(frozen=True, eq=False)
class Scored:
    """The best evaluation of the validation images, with their labels.

    Attributes:
        table: labels of the images that could be read.
        logits: float32 [image, class].
        probabilities: float64 [image, class].
        present: bool [image, class]: the predicted classes.
    """

    table: LabelTable
    logits: np.ndarray
    probabilities: np.ndarray
    present: np.ndarray


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """Everything that the report shows.

    Attributes:
        workdir: folder of the run.
        config: config of the run.
        records: records of metrics.jsonl, in order.
        splits: labels of the run by split.
        best: the best evaluation; None if there is none.
        decision_rule: decision rule of the best evaluation.
        data_card: what was known of the data before the first step; None if the run has no card.
        folds: what eval_out_of_fold.json has, for the report of all folds; val then has the images
            of all folds, and `best` the out-of-fold scores. None for another run.
    """

    workdir: Path
    config: Config
    records: list[dict[str, Any]]
    splits: dict[str, LabelTable]
    best: BestEvaluation | None
    decision_rule: DecisionRule | None
    data_card: DataCard | None = None
    folds: dict[str, Any] | None = None

    @cached_property
    def scored(self) -> Scored | None:
        """The best evaluation with its labels; None if there is none."""
        if self.best is None or self.decision_rule is None:
            return None
        val = self.splits["val"]
        rows = {name: row for row, name in enumerate(val.filenames)}
        table = val.take([rows[name] for name in self.best.filenames])
        probabilities = self.decision_rule.probabilities(self.best.logits)
        present = self.decision_rule.present(probabilities)
        return Scored(table, self.best.logits, probabilities, present)

    @cached_property
    def averaged(self) -> np.ndarray:
        """The classes over which averages of val are: bool [class]."""
        val = self.scored.table if self.scored else self.splits["val"]
        positives = np.sum([table.positives for table in self.splits.values()], axis=0)
        return (positives >= self.config.evaluation.min_positives) & (val.positives > 0)

    @cached_property
    def labels(self) -> Labels:
        """What the diagnosis looks at besides the records."""
        scored = self.scored and (self.scored.table, self.scored.probabilities)
        separate_val = bool(self.config.data.val_csv)
        out_of_fold = self.folds is not None
        val = self.splits["val"]
        return Labels(self.splits["train"], val, separate_val, out_of_fold, scored)

    @cached_property
    def findings(self) -> list[Finding]:
        """The diagnosis."""
        model = self.config.model
        phases = dict(enumerate(self.config.phases))
        weights = model.custom or model.weights  # variables may be given for a custom network
        evaluation = self.config.evaluation
        return diagnose(
            Evidence(
                self.records,
                phases,
                weights=weights,
                head=model.head,
                calibration=evaluation.calibration,
                labels=self.labels,
                min_positives=evaluation.min_positives,
            )
        )


def gather(workdir: Path, splits: dict[str, LabelTable] | None = None) -> ReportInputs:
    """Reads the workdir of a run.

    Args:
        workdir: folder of the run, which may still be training.
        splits: labels of the run; None: read them.

    Raises:
        ValueError: the folder holds no run, or its labels or files cannot be read.
    """
    config = read_config(workdir)
    splits = splits or read_splits_of(workdir, config.data)
    if has_folds(config.data):
        return _gather_folds(workdir, splits)
    records, best = read_metrics(workdir), read_best_evaluation(workdir)
    if best is None:
        best = _from_predictions(workdir, splits["val"])
    elif best.step not in {record["step"] for record in records}:
        best = None  # the run was resumed from an earlier checkpoint
    decision_rule = None
    if best is not None:
        decision_rule = best.decision_rule
        if (workdir / DECISION_RULE).exists():  # tuned after training
            metadata = {"step": best.step, "classes": splits["val"].classes}
            tuned = read_decision_rule(workdir, metadata)
            decision_rule = tuned if tuned.criterion else decision_rule
    card = read_card(workdir)
    return ReportInputs(workdir, config, records, splits, best, decision_rule, card)


def _gather_folds(workdir: Path, splits: dict[str, LabelTable]) -> ReportInputs:
    """Reads the workdir of all folds."""
    path, best = workdir / f"eval_{OUT_OF_FOLD}.json", read_best_evaluation(workdir)
    if best is None or not path.exists():
        raise ValueError(
            f"{workdir} has no out-of-fold scores yet; train its folds to the end, or name one of "
            f"them, such as {fold_folder(workdir, 0)}"
        )
    folds = json.loads(path.read_text(encoding="utf-8"))
    splits = splits | {"val": splits["train"]}
    return ReportInputs(
        workdir, read_config(workdir), [], splits, best, best.decision_rule, folds=folds
    )


def _from_predictions(workdir: Path, val: LabelTable) -> BestEvaluation | None:
    """The evaluation of val that `evaluate` has written, for a run without scores.npz."""
    predictions, evaluated = workdir / "predictions_val.csv", workdir / "eval_val.json"
    if not (predictions.exists() and evaluated.exists()):
        return None
    try:
        result = json.loads(evaluated.read_text(encoding="utf-8"))
        frame = pd.read_csv(predictions, keep_default_na=False)
        names = tuple(unescaped_cell(str(name)) for name in frame.iloc[:, 0])
        probabilities = frame.iloc[:, 1:].to_numpy(np.float64)
        thresholds = tuple(float(result["thresholds"][name]) for name in val.classes)
        if probabilities.shape[1] != len(val.classes) or set(names) - set(val.filenames):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # written by another version
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
