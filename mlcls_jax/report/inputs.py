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
from mlcls_jax.evaluation.decision_rule import Decisions
from mlcls_jax.run.best_scores import Kept, read_kept
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.run.trained_model import read_decisions
from mlcls_jax.run.workdir import DECISIONS, RAW, read_config, read_splits_of

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
class Facts:
    """All that a report is made from.

    splits: labels of the run.
    kept: the best evaluation, None where none was kept; decisions: by which it decides.
    """

    workdir: Path
    config: Config
    records: list[dict[str, Any]]
    splits: dict[str, LabelTable]
    kept: Kept | None
    decisions: Decisions | None

    @cached_property
    def scored(self) -> Scored | None:
        """The best evaluation with its labels."""
        if self.kept is None or self.decisions is None:
            return None
        val = self.splits["val"]
        row = {name: number for number, name in enumerate(val.filenames)}
        table = val.take([row[name] for name in self.kept.filenames])
        probabilities = self.decisions.probabilities(self.kept.logits)
        return Scored(table, probabilities, self.decisions.present(probabilities))

    @cached_property
    def findings(self) -> list[Finding]:
        """The diagnosis."""
        scored = self.scored
        of_val = scored and (scored.table, scored.probabilities)
        return diagnose(self.config, self.records, self.splits["train"], self.splits["val"], of_val)


def gather(workdir: Path, splits: dict[str, LabelTable] | None = None) -> Facts:
    """Reads a workdir.

    Args:
        workdir: of a run, which may still be going on.
        splits: its labels; without them, they are read.

    Raises:
        ValueError: it holds no run, or its labels or files cannot be read.
    """
    config = read_config(workdir)
    splits = splits or read_splits_of(workdir, config.data)
    records, kept = read_metrics(workdir), read_kept(workdir)
    if kept is None:
        kept = _of_predictions(workdir, splits["val"])
    elif kept.step not in {record["step"] for record in records}:
        kept = None  # of a stretch that was lost
    decisions = None
    if kept is not None:
        decisions = kept.decisions
        if (workdir / DECISIONS).exists():  # tuned later
            later = {"step": kept.step, "classes": splits["val"].classes}
            tuned = read_decisions(workdir, later)
            decisions = tuned if tuned.rule else decisions
    return Facts(workdir, config, records, splits, kept, decisions)


def _of_predictions(workdir: Path, val: LabelTable) -> Kept | None:
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
    decisions = Decisions(None, thresholds, (1.0,) * len(val.classes))
    return Kept(
        step=result["step"],
        weights=result.get("weights", RAW),
        filenames=names,
        logits=logits,
        decisions=decisions,
        devices="",
        groups={},
    )
