"""From a workdir to report.html: one file without network, whatever its names are."""

import base64
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlcls_jax.config import Config
from mlcls_jax.config.serialization import flatten_fields
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.finding import Finding
from mlcls_jax.evaluation.calibration import calibration_error
from mlcls_jax.report import charts
from mlcls_jax.report.class_figures import (
    class_rows,
    confused,
    precision_recall,
    reliability,
    together,
)
from mlcls_jax.report.inputs import ReportInputs, Scored, gather
from mlcls_jax.report.thumbnails import Example, Explain, Thumbnails, hits, mistakes
from mlcls_jax.run.workdir import REPORT
from mlcls_jax.step.programs import describe_network
from mlcls_jax.system.files import write_text

_TEMPLATE, _STYLE, _SCRIPT = "report.html", "report.css", "report.js"


def write_report(
    workdir: Path,
    splits: dict[str, LabelTable] | None = None,
    thumbnails: Thumbnails | None = None,
    explain: Explain | None = None,
) -> list[Finding]:
    """Writes report.html of a run, which may still be going on; returns the diagnosis.

    Args:
        workdir: of the run.
        splits: its labels; without them, they are read.
        thumbnails: of an earlier report of the same run.
        explain: makes maps of evidence beside the images; None: there are none.

    Raises:
        ValueError: it holds no run, its labels cannot be read, or the report cannot be written.
    """
    facts = gather(workdir, splits)
    thumbnails = thumbnails or Thumbnails(facts.config.data.max_pixels)
    write_text(workdir / REPORT, render(facts, thumbnails, explain))
    return facts.findings


def render(facts: ReportInputs, thumbnails: Thumbnails, explain: Explain | None = None) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("mlcls_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "percent": _percent}
    style, script = (
        environment.loader.get_source(environment, name)[0]  # pyright: ignore
        for name in (_STYLE, _SCRIPT)
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(_TEMPLATE).render(
        title=facts.workdir.resolve().name,
        style=Markup(style),
        script=Markup(script),
        digest=digest,
        findings=facts.findings,
        **_run(facts),
        **_training(facts),
        **_scores(facts, thumbnails, explain),
    )


def _run(facts: ReportInputs) -> dict[str, Any]:
    """What the run is."""
    config, train = facts.config, facts.splits["train"]
    sizes = ", ".join(f"{len(table):,} {name}" for name, table in facts.splits.items())
    rows = {
        "network": describe_network(config, len(train.classes)),
        "weights": config.model.weights or "random",
        "images": sizes,
        "labels": config.data.csv,
        "classes": f"{len(train.classes)}",
    }
    if facts.kept is not None and facts.kept.devices:
        rows["devices"] = facts.kept.devices
    groups = facts.kept.groups if facts.kept is not None else {}
    changed = flatten_fields(dataclasses.asdict(config))
    usual = flatten_fields(dataclasses.asdict(Config()))
    fields = [(path, value, usual.get(path, None) != value) for path, value in changed.items()]
    return {"rows_of_run": rows, "groups": groups, "fields": fields}


def _training(facts: ReportInputs) -> dict[str, Any]:
    """Curves, and where the time went."""
    records = facts.records
    if not records:
        return {"last": None, "best": None, "curves": [], "times": [], "timing": {}}
    timing: dict[str, float] = {}
    for record in records:
        for what, seconds in record.get("timing", {}).items():
            timing[what] = timing.get(what, 0.0) + seconds
    times = [charts.seconds(timing)] if timing else []
    scored = [record for record in records if facts.kept and record["step"] == facts.kept.step]
    return {
        "last": records[-1],
        "best": scored[-1] if scored else None,
        "curves": [charts.curves(records, "mAP"), charts.curves(records, "loss")],
        "times": [*times, charts.speed(records)],
        "timing": timing,
    }


def _scores(facts: ReportInputs, thumbnails: Thumbnails, explain: Explain | None) -> dict[str, Any]:
    """What the best evaluation says of classes and images; nothing where there is none."""
    scored, decision_rule = facts.scored, facts.decision_rule
    if scored is None or decision_rule is None or not len(scored.table):
        return {"classes": [], "galleries": [], "explained": False}
    table, probabilities, present = scored.table, scored.probabilities, scored.present
    labels, names = table.labels, table.classes
    train = facts.splits["train"]
    return {
        "classes": class_rows(train, table, probabilities, present, decision_rule.thresholds),
        "tuned_for": decision_rule.criterion.text if decision_rule.criterion else None,
        "curve": charts.precision_recall(*precision_recall(labels, probabilities)),
        "calibration": charts.reliability(reliability(labels, probabilities)),
        "error": calibration_error(labels, probabilities),
        "confused": [(p.first, p.second, p.count) for p in confused(names, labels, present)],
        "together": [dataclasses.astuple(p) for p in together(names, labels, present)],
        "galleries": _galleries(scored, thumbnails, explain),
        "explained": explain is not None,
    }


def _galleries(
    scored: Scored, thumbnails: Thumbnails, explain: Explain | None
) -> list[tuple[str, str, list[tuple[str, str, Example]]]]:
    """Title, what is below each image, and the images, with their maps."""
    of = scored.table, scored.probabilities, scored.present
    kinds = [
        ("Seen where the label says no", "wrong", mistakes(*of, label=0)),
        ("Missed where the label says yes", "missed", mistakes(*of, label=1)),
        ("Right in every class", "right", hits(*of)),
    ]
    paths = scored.table.paths
    shown = [(paths[one.row], one) for _, _, examples in kinds for one in examples]
    readable = [(path, one.column) for path, one in shown if thumbnails.of(path)]
    draws = explain(readable) if explain else []
    maps = {
        asked: thumbnails.with_map(asked[0], draw)
        for asked, draw in zip(readable, draws, strict=bool(explain))
    }

    def images(one: Example) -> tuple[str, str, Example]:
        path = paths[one.row]
        return thumbnails.of(path), maps.get((path, one.column), ""), one

    return [
        (title, kind, list(map(images, examples))) for title, kind, examples in kinds if examples
    ]


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    """A width for the style sheet."""
    return "0" if value is None or value != value else f"{100 * min(max(value, 0.0), 1.0):.1f}"
