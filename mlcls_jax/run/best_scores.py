"""Scores and decision rules of a run: scores.npz, kept for the report, and decision_rule.json."""

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.evaluation.decision_rule import (
    DecisionRule,
    decision_rule_from_dict,
    untuned_rule,
)
from mlcls_jax.run.workdir import DECISION_RULE, SCORES
from mlcls_jax.system.files import write_bytes, write_text


@dataclass(frozen=True, eq=False)
class BestEvaluation:
    """The best evaluation of the validation images.

    Attributes:
        step: training step of the evaluation.
        weights: RAW or EMA, whichever scored better.
        filenames: file names of the images.
        logits: float32 [image, class].
        decision_rule: thresholds and temperatures tuned on these images.
        devices: the devices of the run, as text.
        groups: rows of the table of parameter groups per phase, with the fields of GroupRow.
    """

    step: int
    weights: str
    filenames: tuple[str, ...]
    logits: np.ndarray
    decision_rule: DecisionRule
    devices: str
    groups: dict[str, list[dict[str, Any]]]


def write_best_evaluation(workdir: Path, best: BestEvaluation, name: str = SCORES) -> None:
    """Writes scores.npz, replacing that of an earlier evaluation.

    Args:
        workdir: of the run.
        best: the evaluation.
        name: another name for the file.

    Raises:
        ValueError: the file cannot be written.
    """
    about = {
        name: getattr(best, name) for name in ("step", "weights", "filenames", "devices", "groups")
    }
    about["decision_rule"] = dataclasses.asdict(best.decision_rule)
    text = json.dumps(about).encode()
    file = io.BytesIO()
    np.savez(file, about=np.frombuffer(text, np.uint8), logits=best.logits)
    write_bytes(workdir / name, file.getvalue())


def read_best_evaluation(workdir: Path, name: str = SCORES) -> BestEvaluation | None:
    """Returns the best evaluation, or None without scores.npz.

    Args:
        workdir: of the run.
        name: another name of the file.

    Raises:
        ValueError: the file cannot be read.
    """
    path = workdir / name
    if not path.exists():
        return None
    try:
        # From bytes, as NumPy leaves a file open that it cannot read.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            about, logits = json.loads(arrays["about"].tobytes()), arrays["logits"]
        about["filenames"] = tuple(about["filenames"])
        about["decision_rule"] = decision_rule_from_dict(about["decision_rule"])
        return BestEvaluation(logits=logits, **about)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it") from error


def read_decision_rule(workdir: Path, metadata: dict[str, Any]) -> DecisionRule:
    """Returns the decision rule that was tuned last for a checkpoint.

    This is the rule of `evaluate` in decision_rule.json, or else the one from training. A
    checkpoint that was saved between two evaluations has none; its rule is the untuned one.

    Args:
        workdir: of the run.
        metadata: of the checkpoint.

    Raises:
        ValueError: decision_rule.json cannot be read, or a rule is invalid.
    """
    path = workdir / DECISION_RULE
    try:
        later = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if later is not None and later["step"] == metadata["step"]:
            return _checked(decision_rule_from_dict(later["decision_rule"]), metadata["classes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it") from error
    values = metadata.get("decision_rule")
    if values is None:
        return untuned_rule(metadata["classes"])
    return _checked(decision_rule_from_dict(values), metadata["classes"])


def _checked(decision_rule: DecisionRule, classes: list[str]) -> DecisionRule:
    """Returns the rule; raises ValueError if its values are not one for each class."""
    if not len(decision_rule.thresholds) == len(decision_rule.temperatures) == len(classes):
        raise ValueError(f"decision rule: it is not for {len(classes)} classes")
    return decision_rule


def write_decision_rule(workdir: Path, step: int, decision_rule: DecisionRule) -> None:
    """Writes decision_rule.json, with a rule that was tuned after training for a checkpoint."""
    values = {"step": step, "decision_rule": dataclasses.asdict(decision_rule)}
    write_text(workdir / DECISION_RULE, json.dumps(values, indent=2) + "\n")
