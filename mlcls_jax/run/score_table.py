"""The scores of labelled images in numbers for JSON, and as tables for the terminal."""

import dataclasses
import math
from typing import Any

import numpy as np

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.evaluation.base_rate import BaseRate, constant_scores, model_scores
from mlcls_jax.evaluation.bootstrap import Interval, bootstrap_intervals
from mlcls_jax.evaluation.decision_rule import DecisionRule, threshold_report
from mlcls_jax.evaluation.metrics import (
    Scores,
    classes_to_average,
    constant_predictor,
    finite_or_none,
    mean_or_nan,
)
from mlcls_jax.evaluation.precision_at_recall import precisions_at_recall
from mlcls_jax.run.workdir import RAW
from mlcls_jax.system.console import console, escaped, print_table

# Metrics of the first table, with what each of them is.
MAIN = {
    "mAP": "mean average precision",
    "CF1": "F1 of CP and CR",
    "CP": "mean class precision",
    "CR": "mean class recall",
    "OF1": "F1 of OP and OR",
    "OP": "overall precision",
    "OR": "overall recall",
    "CF1@3": "CF1 of the top 3",
    "OF1@3": "OF1 of the top 3",
    "loss": "binary cross-entropy",
}
# Metrics of the second table.
FURTHER = {
    "AUROC": "mean over classes",
    "AUROC_micro": "all labels together",
    "F1_macro": "mean of the classes' F1",
    "F1_samples": "mean of the images' F1",
    "exact_match": "images without a mistake",
    "hamming_loss": "share of wrong labels",
    "LRAP": "label-ranking average precision",
    "coverage_error": "rank of the last positive",
    "precision_at_recall": "mean over classes",
}


def score_table(
    metadata: dict[str, Any],
    table: LabelTable,
    logits: np.ndarray,
    decision_rule: DecisionRule,
    *,
    tuned_here: bool,
    seed: int,
    resamples: int,
    at_recall: float,
) -> tuple[dict[str, Any], Scores, Scores]:
    """Returns the metrics of images, JSON-ready, with the scores that they are taken from.

    Args:
        metadata: of the checkpoint; its base_rate, step, phase and weights are used.
        table: labels of the images.
        logits: float [image, class].
        decision_rule: thresholds and temperatures.
        tuned_here: whether the rule was tuned on these images.
        seed: of the bootstrap.
        resamples: bootstrap resamples for the intervals of mAP and AUROC; 0 for none.
        at_recall: recall of precision_at_recall, above 0 and up to 1.

    Returns:
        What eval_<split>.json says of them, the scores, and those of a constant predictor.
    """
    base = BaseRate(**metadata["base_rate"])
    included = classes_to_average(table.labels, np.array(base.included_classes))
    scores = model_scores(table, logits, base, further=True)
    constant = constant_scores(table, base, further=True)
    frequencies = constant_predictor(np.array(base.frequencies), len(table))
    at = precisions_at_recall(table.labels, logits, included, at_recall)
    constant_at = precisions_at_recall(table.labels, frequencies, included, at_recall)
    class_at = dict(zip(table.classes, at.tolist(), strict=True))
    scores, constant = _with_precision(scores, at), _with_precision(constant, constant_at)
    intervals = bootstrap_intervals(table.labels, logits, included, resamples, seed)
    result = {
        "step": metadata["step"],
        "phase": metadata["phase"],
        "weights": metadata.get("weights", RAW),
        "values": finite_or_none(scores.values),
        "mAP_interval": _as_dict(intervals.means.get("mAP")),
        "AUROC_interval": _as_dict(intervals.means.get("AUROC")),
        "base_rate": finite_or_none(constant.values),
        "class_ap": finite_or_none(scores.class_ap),
        "class_auroc": finite_or_none(scores.class_auroc),
        "class_auroc_interval": {
            table.classes[c]: _as_dict(interval)
            for c, interval in zip(np.flatnonzero(included), intervals.class_auroc, strict=True)
        },
        "at_recall": at_recall,
        "class_precision_at_recall": finite_or_none(class_at),
        "excluded_classes": scores.excluded_classes,
        **threshold_report(table, logits, base, decision_rule, tuned_here=tuned_here),
    }
    return result, scores, constant


def _with_precision(scores: Scores, precisions: np.ndarray) -> Scores:
    """Returns the scores with the mean of the precisions that are not NaN."""
    mean = mean_or_nan(precisions[~np.isnan(precisions)])
    return dataclasses.replace(scores, values=scores.values | {"precision_at_recall": mean})


def _as_dict(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else dataclasses.asdict(interval)


def print_scores(
    model: str,
    result: dict[str, Any],
    table: LabelTable,
    scores: Scores,
    constant: Scores,
) -> None:
    """Prints the metrics, and the average precision and threshold of each class.

    Args:
        model: what was scored, such as "checkpoint of step 120".
        result: from `score_table`, with split, tta and views.
        table: labels of the images.
        scores: of the model.
        constant: of a constant predictor.
    """
    console.print(f"{result['split']}: {len(table)} images, {model}")
    if result["views"] > 1:
        console.print(f"--tta {result['tta']}: average over {result['views']} views of each image")
    for name in ("mAP", "AUROC"):
        if interval := result[f"{name}_interval"]:
            console.print(
                f"{name} {scores.values[name]:.4f}, {interval['level']:.0%} confidence interval "
                f"{interval['low']:.4f} to {interval['high']:.4f} "
                f"({interval['resamples']} bootstrap resamples of the images)"
            )
    further = FURTHER | {"precision_at_recall": f"mean, at recall {result['at_recall']:g}"}
    for heading, metrics in (("metric", MAIN), ("further metrics", further)):
        _print_metrics(heading, metrics, result["at_thresholds"] or {}, scores, constant)
    per_class = [
        [
            name,
            str(positives),
            _figure(scores.class_ap[name], 3),
            _figure(constant.class_ap[name], 3),
            _figure(scores.class_auroc[name], 3),
            f"{result['thresholds'][name]:.3f}",
        ]
        for name, positives in zip(table.classes, table.positives, strict=True)
        if name not in scores.excluded_classes
    ]
    heads = ["class", "positives", "AP", "base rate", "AUROC", "threshold"]
    print_table("", heads, per_class)
    if scores.excluded_classes:
        console.print(
            escaped(
                "Excluded from the averages over classes, because they have too few positives: "
                f"{', '.join(scores.excluded_classes)}"
            )
        )


def _print_metrics(
    heading: str,
    metrics: dict[str, str],
    at_thresholds: dict[str, float | None],
    scores: Scores,
    constant: Scores,
) -> None:
    rows = [
        [
            f"{name} ({meaning})",
            _figure(scores.values[name]),
            _figure(at_thresholds.get(name)),
            _figure(constant.values[name]),
        ]
        for name, meaning in metrics.items()
    ]
    print_table("", [heading, "model", "at thresholds", "base rate"], rows)


def _figure(value: float | None, digits: int = 4) -> str:
    """Returns a number as text; "" for one that is undefined."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"
