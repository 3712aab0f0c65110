"""Out-of-fold predictions: each image scored by the run that was not trained on it."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.config import Evaluation
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.label_errors import Suspect, label_errors
from mlcls_jax.diagnosis.suspects_csv import write_suspects
from mlcls_jax.evaluation.base_rate import BaseRate, model_scores
from mlcls_jax.evaluation.decision_rule import (
    DecisionRule,
    criterion_from_config,
    describe_threshold_report,
    fit_decision_rule,
)
from mlcls_jax.evaluation.metrics import finite_or_none
from mlcls_jax.run.best_scores import (
    BestEvaluation,
    read_best_evaluation,
    write_best_evaluation,
)
from mlcls_jax.run.checkpoint_integrity import fold_folder
from mlcls_jax.run.score_table import print_scores, score_table
from mlcls_jax.run.trained_model import write_predictions
from mlcls_jax.run.workdir import HELD_OUT, LAST_SCORES, OUT_OF_FOLD, SUSPECTS
from mlcls_jax.system.console import console, escaped, print_table
from mlcls_jax.system.files import move, write_text

RESAMPLES, AT_RECALL = 1000, 0.9  # as `evaluate` by default
SHOWN = ("mAP", "AUROC", "loss", "CF1", "OF1")  # metrics of the table of folds
IN_WORDS = "the out-of-fold predictions"


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Scores of the images of all folds by the last evaluation of each run.

    Attributes:
        table: labels of the images that could be read.
        fold: int64 [image], the fold of each image.
        logits: float32 [image, class].
        weights: RAW or EMA, which more of the folds have used.
        last: the last evaluation of fold 0.
    """

    table: LabelTable
    fold: np.ndarray
    logits: np.ndarray
    weights: str
    last: BestEvaluation


def keep_held_out(workdir: Path) -> None:
    """Marks the run of a fold as finished: its last scores become those of the held-out images."""
    last = workdir / LAST_SCORES
    if last.exists():
        move(last, workdir / HELD_OUT)


def read_out_of_fold(workdir: Path, table: LabelTable, fold: np.ndarray) -> OutOfFold:
    """Reads what the finished runs of all folds have left.

    Args:
        workdir: of all folds.
        table: their images.
        fold: int64 [image], the fold of each image.

    Raises:
        ValueError: a file is missing, damaged, or of other images.
    """
    row_of = {name: row for row, name in enumerate(table.filenames)}
    logits = np.full(table.labels.shape, np.nan, np.float32)
    results = []
    for number in range(int(fold.max()) + 1):
        folder = fold_folder(workdir, number)
        result = read_best_evaluation(folder, HELD_OUT)
        rows = [row_of.get(name, -1) for name in result.filenames] if result else []
        if result is None or min(rows, default=-1) < 0 or (fold[rows] != number).any():
            raise ValueError(
                f"{folder / HELD_OUT} is missing or has other images; remove {folder}, and run the "
                "same command again"
            )
        logits[rows] = result.logits
        results.append(result)
    read = np.flatnonzero(~np.isnan(logits).any(axis=1))
    weights = Counter(result.weights for result in results).most_common(1)[0][0]
    return OutOfFold(table.take(read), fold[read], logits[read], weights, results[0])


@dataclass(frozen=True, eq=False)
class FoldScores:
    """The evaluation of all folds.

    Attributes:
        result: what eval_out_of_fold.json has.
        decision_rule: thresholds and temperatures, tuned on the out-of-fold predictions.
        suspects: labels that may be wrong, the most probable first.
    """

    result: dict[str, Any]
    decision_rule: DecisionRule
    suspects: list[Suspect]


def evaluate_folds(
    out_of_fold: OutOfFold, evaluation: Evaluation, seed: int, *, phase: str
) -> FoldScores:
    """Returns the scores over all images and of each fold, after printing them.

    Args:
        out_of_fold: scores of the images.
        evaluation: the section of the config.
        seed: of the bootstrap.
        phase: name of the last phase.
    """
    table, logits = out_of_fold.table, out_of_fold.logits
    included = table.positives >= evaluation.min_positives
    base = BaseRate(tuple(table.frequencies.tolist()), tuple(included.tolist()))
    rule = fit_decision_rule(table, logits, included.tolist(), criterion_from_config(evaluation))
    rule = dataclasses.replace(rule, tuned_on=IN_WORDS)
    metadata = {
        "step": out_of_fold.last.step,
        "phase": phase,
        "weights": out_of_fold.weights,
        "base_rate": dataclasses.asdict(base),
    }
    scored, scores, constant = score_table(
        metadata,
        table,
        logits,
        rule,
        tuned_here=True,
        seed=seed,
        resamples=RESAMPLES,
        at_recall=AT_RECALL,
    )
    folds = _by_fold(out_of_fold, base)
    found = label_errors(table.labels, logits, rule.probabilities(logits))
    result = {
        "split": OUT_OF_FOLD,
        "csv": "",
        "images": "",
        "num_images": len(table),
        "tta": "none",
        "views": 1,
        **scored,
        "folds": folds,
        "fold_mean": _over_folds(folds, np.mean),
        "fold_deviation": _over_folds(folds, _deviation),
        "label_errors": dataclasses.asdict(found.estimate),
    }
    print_scores("each by the run that was not trained on it", result, table, scores, constant)
    for line in describe_threshold_report(scored, rule):
        console.print(escaped(line))
    _print_folds(result)
    return FoldScores(result, rule, found.suspects)


def _by_fold(out_of_fold: OutOfFold, base: BaseRate) -> list[dict[str, Any]]:
    """Returns number, images and metrics of each fold, JSON-ready."""
    result = []
    for number in range(int(out_of_fold.fold.max()) + 1):
        rows = np.flatnonzero(out_of_fold.fold == number)
        scores = model_scores(out_of_fold.table.take(rows), out_of_fold.logits[rows], base)
        result.append(
            {"fold": number, "images": len(rows), "values": finite_or_none(scores.values)}
        )
    return result


def _over_folds(folds: Sequence[dict[str, Any]], statistic: Any) -> dict[str, float | None]:
    """Returns a statistic of each metric over the folds in which it is defined."""
    values = {}
    for name in folds[0]["values"]:
        defined = [fold["values"][name] for fold in folds if fold["values"][name] is not None]
        values[name] = float(statistic(defined)) if defined else float("nan")
    return finite_or_none(values)


def _deviation(values: Sequence[float]) -> float:
    """Returns the standard deviation of a sample; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _print_folds(result: dict[str, Any]) -> None:
    def cells(values: dict[str, float | None]) -> list[str]:
        return ["" if values[name] is None else f"{values[name]:.4f}" for name in SHOWN]

    rows = [[str(f["fold"]), str(f["images"]), *cells(f["values"])] for f in result["folds"]]
    rows.append(["mean", "", *cells(result["fold_mean"])])
    rows.append(["deviation", "", *cells(result["fold_deviation"])])
    print_table("", ["fold", "images", *SHOWN], rows)


def write_folds(workdir: Path, out_of_fold: OutOfFold, scores: FoldScores) -> None:
    """Writes the files of all folds, and prints their names.

    These are eval_out_of_fold.json, predictions_out_of_fold.csv, label_suspects.csv, and scores.npz
    for the report.

    Raises:
        ValueError: a file cannot be written.
    """
    table, logits = out_of_fold.table, out_of_fold.logits
    probabilities = scores.decision_rule.probabilities(logits)
    written = [
        workdir / f"eval_{OUT_OF_FOLD}.json",
        workdir / f"predictions_{OUT_OF_FOLD}.csv",
        workdir / SUSPECTS,
    ]
    write_text(written[0], json.dumps(scores.result, indent=2) + "\n")
    write_predictions(written[1], table.filenames, probabilities, table.classes)
    write_suspects(written[2], table, scores.suspects)
    all_folds = dataclasses.replace(
        out_of_fold.last,
        filenames=table.filenames,
        logits=logits,
        decision_rule=scores.decision_rule,
    )
    write_best_evaluation(workdir, all_folds)
    names = ", ".join(map(str, written))
    console.print(escaped(f"Wrote {names}; {len(scores.suspects)} labels may be wrong"))
