"""Renders report.html: one file that needs no network, whatever the names in it are."""

import base64
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlcls_jax.config import Config
from mlcls_jax.config.serialization import describe_network, flatten_fields
from mlcls_jax.data.card import describe
from mlcls_jax.data.card.data_card import DataCard
from mlcls_jax.data.images.pixel_format import pixel_format
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.finding import Finding
from mlcls_jax.diagnosis.label_errors import Suspect
from mlcls_jax.diagnosis.overrides import for_shell
from mlcls_jax.diagnosis.suspects_csv import write_suspects
from mlcls_jax.evaluation.best_metric import best_in_words
from mlcls_jax.evaluation.bootstrap import Interval, bootstrap_intervals
from mlcls_jax.evaluation.calibration import calibration_error
from mlcls_jax.report import charts
from mlcls_jax.report.class_figures import (
    averages,
    class_rows,
    co_occurrence,
    confused,
    precision_recall,
    reliability,
    score_histogram,
    together,
)
from mlcls_jax.report.inputs import ReportInputs, Scored, gather
from mlcls_jax.report.thumbnails import (
    SHOWN,
    Example,
    Explain,
    Thumbnails,
    hits,
    mistakes,
    right_images,
    suspects,
    wrong_labels,
)
from mlcls_jax.run.workdir import REPORT, SUSPECTS
from mlcls_jax.system.files import write_text

RESAMPLES = 1000  # as in evaluate, so that its intervals are the same
FOLD_METRICS = ("mAP", "AUROC", "loss", "CF1", "OF1")
_TEMPLATE, _STYLE, _SCRIPT = "report.html", "report.css", "report.js"


def write_report(
    workdir: Path,
    splits: dict[str, LabelTable] | None = None,
    thumbnails: Thumbnails | None = None,
    explain: Explain | None = None,
    most: int = SHOWN,
) -> list[Finding]:
    """Writes report.html of a run and returns its diagnosis.

    If labels may be wrong, they are in label_suspects.csv too, unless a person has edited it.

    Args:
        workdir: folder of the run, which may still be training.
        splits: labels of the run by split; None: read them.
        thumbnails: those of an earlier report of the same run, to reuse them.
        explain: makes the Grad-CAM maps below the images; None: no maps.
        most: images of each kind.

    Raises:
        ValueError: the folder holds no run, its labels cannot be read, or the report cannot be
            written.
    """
    inputs = gather(workdir, splits)
    thumbnails = thumbnails or Thumbnails(
        pixel_format(inputs.config.data, inputs.config.model.in_channels)
    )
    write_text(workdir / REPORT, render(inputs, thumbnails, explain, most))
    if inputs.scored and not inputs.folds and (found := inputs.labels.errors.suspects):
        write_suspects(workdir / SUSPECTS, inputs.scored.table, found)
    return inputs.findings


def render(
    inputs: ReportInputs,
    thumbnails: Thumbnails,
    explain: Explain | None = None,
    most: int = SHOWN,
) -> str:
    """Returns the report as HTML.

    Args:
        inputs: what the report shows.
        thumbnails: makes the small images.
        explain: makes the Grad-CAM maps below the images; None: no maps.
        most: images of each kind.
    """
    return page(
        _TEMPLATE,
        title=inputs.workdir.resolve().name,
        findings=inputs.findings,
        data_card=inputs.data_card and _data_values(inputs.data_card),
        folds=inputs.folds,
        fold_metrics=FOLD_METRICS,
        **_run_values(inputs),
        **_training_values(inputs),
        **_score_values(inputs, thumbnails, explain, most),
    )


def page(template: str, **values: Any) -> str:
    """Returns a page with the style and the script of reports.

    Args:
        template: name of the template.
        values: what it shows; every text is escaped.
    """
    environment = Environment(
        loader=PackageLoader("mlcls_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "percent": _percent, "for_shell": for_shell}
    environment.filters |= {"interval": _interval, "histogram": _histogram}
    style, script = (
        environment.loader.get_source(environment, name)[0]  # pyright: ignore
        for name in (_STYLE, _SCRIPT)
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), digest=digest, **values
    )


def _run_values(inputs: ReportInputs) -> dict[str, Any]:
    """Template values of the section on the run."""
    config, train = inputs.config, inputs.splits["train"]
    tables = inputs.splits.items()
    sizes = ", ".join(
        f"{len(table):,} {name}" for name, table in tables if name != "val" or not inputs.folds
    )
    rows = {
        "network": describe_network(config.model, len(train.classes)),
        "weights": config.model.weights or "random",
        "images": sizes,
        "labels": config.data.csv,
        "classes": f"{len(train.classes)}",
    }
    if inputs.best is not None and inputs.best.devices:
        rows["devices"] = inputs.best.devices
    groups = inputs.best.groups if inputs.best is not None else {}
    values = flatten_fields(dataclasses.asdict(config))
    defaults = flatten_fields(dataclasses.asdict(Config()))
    fields = [(path, value, defaults.get(path) != value) for path, value in values.items()]
    return {"run_rows": rows, "groups": groups, "fields": fields}


def _data_values(card: DataCard) -> dict[str, Any]:
    """Template values of the section on the data."""
    classes = len(card.labels.positives)
    splits = [
        (
            name,
            counts["images"],
            counts["positive"] / counts["images"],
            f"{counts['unknown'] / (classes * counts['images']):.1%}" if counts["unknown"] else "–",
        )
        for name, counts in card.labels.splits.items()
    ]
    return {
        "splits": splits,
        "rows": describe.rows(card),
        "notes": card.notes,
        "warnings": [*card.warnings, *describe.warnings(card)],
        "is_shortened": describe.is_shortened(card),
    }


def _training_values(inputs: ReportInputs) -> dict[str, Any]:
    """Template values of the curves and the times."""
    records = inputs.records
    if not records:
        return {"last": None, "best": None, "curves": [], "times": [], "timing": {}}
    evaluation = inputs.config.evaluation
    timing: dict[str, float] = {}
    for record in records:
        for activity, seconds in record.get("timing", {}).items():
            timing[activity] = timing.get(activity, 0.0) + seconds
    times = [charts.seconds(timing)] if timing else []
    best = [record for record in records if inputs.best and record["step"] == inputs.best.step]
    return {
        "last": records[-1],
        "best": best[-1] if best else None,
        "best_by": evaluation.best,
        "best_in_words": best_in_words(evaluation.best),
        "averaged": int(inputs.averaged.sum()),
        "curves": [charts.curves(records, "mAP"), charts.curves(records, "loss")],
        "times": [*times, charts.speed(records)],
        "timing": timing,
    }


def _score_values(
    inputs: ReportInputs, thumbnails: Thumbnails, explain: Explain | None, most: int
) -> dict[str, Any]:
    """Template values of classes and images by the best evaluation, if there is one."""
    scored, decision_rule = inputs.scored, inputs.decision_rule
    if scored is None or decision_rule is None or not len(scored.table):
        return {"classes": [], "galleries": [], "explained": False}
    table, probabilities, present = scored.table, scored.probabilities, scored.present
    labels, names = table.labels, table.classes
    train, averaged = inputs.splits["train"], inputs.averaged
    intervals = bootstrap_intervals(labels, scored.logits, averaged, RESAMPLES, inputs.config.seed)
    aurocs = dict(zip(np.flatnonzero(averaged).tolist(), intervals.class_auroc, strict=True))
    each, pooled = precision_recall(labels, probabilities)
    frequent, shares = co_occurrence(train)
    return {
        "classes": class_rows(train, table, probabilities, present, decision_rule.thresholds),
        "resamples": next((each.resamples for each in intervals.means.values()), RESAMPLES),
        "intervals": [aurocs.get(c) for c in range(len(names))],
        "averages": averages(labels, scored.logits, averaged, intervals.means),
        "tuned_for": decision_rule.criterion.text if decision_rule.criterion else None,
        "histograms": list(map(score_histogram, labels.T, probabilities.T)),
        "shares": [(names[c], row.tolist()) for c, row in zip(frequent, shares, strict=True)],
        "curve": charts.precision_recall({names[c]: points for c, points in each.items()}, pooled),
        "calibration": charts.reliability(reliability(table.train_labels, probabilities)),
        "error": calibration_error(table.train_labels, probabilities),
        "confused": [(p.first, p.second, p.count) for p in confused(names, labels, present)],
        "together": [dataclasses.astuple(p) for p in together(names, labels, present)],
        "galleries": _galleries(scored, inputs.labels.errors.suspects, thumbnails, explain, most),
        "explained": explain is not None,
    }


def _galleries(
    scored: Scored,
    doubted: Sequence[Suspect],
    thumbnails: Thumbnails,
    explain: Explain | None,
    most: int,
) -> list[tuple[str, str, int, list[tuple[str, str, Example]]]]:
    """Title, CSS class, count, and (image address, map address, example) of each gallery."""
    evaluated = scored.table, scored.probabilities, scored.present
    wrong, missed = (
        int(wrong_labels(scored.table, scored.present, label).any(axis=1).sum()) for label in (0, 1)
    )
    right = int(right_images(scored.table, scored.present).sum())
    kinds = [
        (
            "Labels that may be wrong",
            "doubted",
            len(doubted),
            suspects(scored.table, scored.probabilities, doubted[:most]),
        ),
        ("False positives", "wrong", wrong, mistakes(*evaluated, 0, most)),
        ("False negatives", "missed", missed, mistakes(*evaluated, 1, most)),
        ("Correct in every class", "right", right, hits(*evaluated)),
    ]
    paths = scored.table.paths
    shown = [(paths[one.row], one) for *_, examples in kinds for one in examples]
    readable = [(path, one.column) for path, one in shown if thumbnails.of(path)]
    draws = explain(readable) if explain else []
    maps = {
        key: thumbnails.with_map(key[0], draw)
        for key, draw in zip(readable, draws, strict=bool(explain))
    }

    def images(one: Example) -> tuple[str, str, Example]:
        path = paths[one.row]
        return thumbnails.of(path), maps.get((path, one.column), ""), one

    return [
        (title, kind, count, list(map(images, examples)))
        for title, kind, count, examples in kinds
        if examples
    ]


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def _interval(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _histogram(shares: np.ndarray) -> Markup:
    """Two paths of bars: those with the class above a line at 10, those without it below.

    Heights are square roots, so that a few images beside many are seen.
    """
    heights = 10 * np.sqrt(shares / np.maximum(shares.max(axis=1, keepdims=True), 1e-9))
    absent, present = (
        "".join(f"M{x} 10v{sign * h:.3g}h1v{-sign * h:.3g}z" for x, h in enumerate(row) if h)
        for sign, row in zip((1, -1), heights, strict=True)
    )
    return Markup(f'<path class="with" d="{present}"/><path class="without" d="{absent}"/>')


def _percent(value: float | None) -> str:
    """A value from 0 to 1 as a width in percent, without the sign."""
    return "0" if value is None or value != value else f"{100 * min(max(value, 0.0), 1.0):.1f}"
