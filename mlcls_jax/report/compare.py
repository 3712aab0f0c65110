"""Renders a page that compares runs: their configs, curves and classes, on the same images."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.config.schema import image_size
from mlcls_jax.config.serialization import flatten_fields
from mlcls_jax.evaluation.bootstrap import Interval, paired_differences
from mlcls_jax.evaluation.metrics import average_precisions
from mlcls_jax.report import charts
from mlcls_jax.report.html import RESAMPLES, page
from mlcls_jax.report.inputs import ReportInputs, Scored, gather
from mlcls_jax.system.console import quoted
from mlcls_jax.system.files import write_text

_TEMPLATE = "compare.html"


@dataclass(frozen=True, eq=False)
class Shared:
    """What all runs have scored.

    Attributes:
        filenames: val images of all runs, in the order of the first run.
        classes: classes of all runs with a positive label among these images, in that order.
        labels: int8 [image, class], of the first run.
        logits: float [image, class] of each run.
        changed: number of labels that are not the same in all runs.
    """

    filenames: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    logits: list[np.ndarray]
    changed: int


def write_comparison(workdirs: Sequence[Path], out: Path) -> None:
    """Writes a page that compares the best evaluations of runs.

    Args:
        workdirs: folders of the runs; differences are to the first one.
        out: the file to write.

    Raises:
        ValueError: a folder holds no run or no evaluation, the runs have no val images or classes
            in common, or the page cannot be written.
    """
    write_text(out, render(list(map(gather, workdirs))))


def render(runs: Sequence[ReportInputs]) -> str:
    """Returns the page as HTML; differences are to the first run.

    Raises:
        ValueError: as in `write_comparison`.
    """
    shared, names = _shared(runs), _names([run.workdir for run in runs])
    first = shared.logits[0]
    included = np.ones(len(shared.classes), bool)
    precisions = [average_precisions(shared.labels, x, included) for x in shared.logits]
    gains = [paired_differences(shared.labels, x, first, RESAMPLES, 0) for x in shared.logits[1:]]
    records = {name: run.records for name, run in zip(names, runs, strict=True)}
    return page(
        _TEMPLATE,
        title=f"Comparison of {len(runs)} runs",
        names=names,
        shared=shared,
        rows=_rows(runs, names, precisions, [gain for gain, _ in gains]),
        classes=[
            (
                name,
                int((shared.labels[:, c] == 1).sum()),
                [float(ap[c]) for ap in precisions],
                [each[c] for _, each in gains],
            )
            for c, name in enumerate(shared.classes)
        ],
        fields=_differing_fields(runs),
        resamples=RESAMPLES,
        curves=[charts.compared_curves(records, metric) for metric in ("mAP", "loss")],
    )


def _shared(runs: Sequence[ReportInputs]) -> Shared:
    """The images and classes of all runs, with the labels of the first one."""
    scored = [_scored(run) for run in runs]
    rows = [{name: i for i, name in enumerate(one.table.filenames)} for one in scored]
    columns = [{name: i for i, name in enumerate(one.table.classes)} for one in scored]
    files = [name for name in rows[0] if all(name in other for other in rows)]
    classes = [name for name in columns[0] if all(name in other for other in columns)]
    if not files or not classes:
        what = "val image" if classes else "class"
        raise ValueError(
            f"{', '.join(str(run.workdir) for run in runs)}: no {what} is in all of these runs, so "
            "there is nothing to compare; compare runs on the same data and the same splits"
        )
    cells = [
        np.ix_([row[f] for f in files], [column[c] for c in classes])
        for row, column in zip(rows, columns, strict=True)
    ]
    labels = [one.table.labels[cell] for one, cell in zip(scored, cells, strict=True)]
    positive = (labels[0] == 1).any(axis=0)
    if not positive.any():
        raise ValueError(f"{runs[0].workdir}: no class has a positive label on the shared images")
    return Shared(
        tuple(files),
        tuple(name for name, has in zip(classes, positive, strict=True) if has),
        labels[0][:, positive],
        [one.logits[cell][:, positive] for one, cell in zip(scored, cells, strict=True)],
        int(sum((other != labels[0]).sum() for other in labels[1:])),
    )


def _scored(run: ReportInputs) -> Scored:
    if run.scored is None:
        raise ValueError(f"{run.workdir} has no evaluation yet; train it, or run evaluate on it")
    return run.scored


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(name for name in map(str, workdirs) if list(map(str, workdirs)).count(name) > 1)
    raise ValueError(f"{quoted([twice])} is named twice; name each run once")


def _rows(
    runs: Sequence[ReportInputs],
    names: Sequence[str],
    precisions: Sequence[np.ndarray],
    gains: Sequence[Interval | None],
) -> list[dict[str, Any]]:
    """The figures of each run."""
    rows = []
    for number, (run, name, ap) in enumerate(zip(runs, names, precisions, strict=True)):
        last = run.records[-1] if run.records else {}
        own = [record for record in run.records if run.best and record["step"] == run.best.step]
        seconds = sum(sum(record.get("timing", {}).values()) for record in run.records)
        rows.append(
            {
                "name": name,
                "mAP": float(ap.mean()),
                "gain": float(ap.mean() - precisions[0].mean()) if number else None,
                "interval": gains[number - 1] if number else None,
                "loss": own[-1]["val"]["loss"] if own else None,
                "CF1": own[-1]["val"]["CF1"] if own else None,
                "step": run.best.step if run.best else None,
                "epoch": last.get("epoch"),
                "images_per_second": last.get("images_per_second"),
                "seconds": seconds or None,
            }
        )
    return rows


def _differing_fields(runs: Sequence[ReportInputs]) -> list[tuple[str, list[Any]]]:
    """The fields of the configs that are not the same in all runs, with the value of each run."""
    # image_size is 0 where the network's own is used
    configs = [
        flatten_fields(dataclasses.asdict(run.config))
        | {"model.image_size": image_size(run.config.model)}
        for run in runs
    ]
    paths = dict.fromkeys(path for config in configs for path in config)
    rows = [(path, [config.get(path, "–") for config in configs]) for path in paths]
    return [(path, values) for path, values in rows if any(v != values[0] for v in values)]
