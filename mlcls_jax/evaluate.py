"""Scores a trained run: metrics beside the base rate, and a probability per image and class.

python -m mlcls_jax.evaluate --workdir runs/b5 --split val
python -m mlcls_jax.evaluate --workdir runs/b5 --csv test.csv --images test/
python -m mlcls_jax.evaluate --workdir runs/b5 --split val \\
    --threshold-criterion precision --threshold-target 0.95
python -m mlcls_jax.evaluate --workdir runs/b5 --images photos/

The second writes eval_csv_test.json and predictions_csv_test.csv.  The third tunes the thresholds
anew and keeps them in decision_rule.json, for predict and export.  Of images without labels, in a
folder or in a CSV of file names alone, it writes predictions only.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from mlcls_jax import cli
from mlcls_jax.config import Config, Data
from mlcls_jax.config.checks import validate
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.loaders.threads import Reader, make_reader
from mlcls_jax.data.readers.read_table import has_folder, read_table
from mlcls_jax.data.readers.unlabelled import folder_table
from mlcls_jax.evaluation.base_rate import BaseRate, constant_scores, model_scores
from mlcls_jax.evaluation.bootstrap import map_interval
from mlcls_jax.evaluation.decision_rule import (
    ThresholdCriterion,
    criterion_from_config,
    describe_threshold_report,
    fit_decision_rule,
    threshold_report,
)
from mlcls_jax.evaluation.inference import predict_dataset
from mlcls_jax.evaluation.metrics import Scores, classes_to_average, finite_or_none
from mlcls_jax.run.trained_model import (
    TrainedModel,
    describe_checkpoint,
    load_trained_model,
    write_decision_rule,
    write_predictions,
)
from mlcls_jax.run.tta import views, with_views
from mlcls_jax.run.workdir import RAW, read_splits_of
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console, escaped, print_table, print_warning
from mlcls_jax.system.files import check_writable, write_text

PRINTED = ("mAP", "CF1", "CP", "CR", "OF1", "OP", "OR", "CF1@3", "OF1@3", "loss")
RESAMPLES = 1000
SOURCES = Data.__dataclass_fields__["source"].metadata["choices"]
TUNED_BY = ("threshold_criterion", "threshold_target", "calibration")  # options that tune anew


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    options = parse(argv)
    distributed.start()
    workdir = Path(options.workdir)
    run = with_views(load_trained_model(workdir, options.checkpoint), options.tta)
    check_writable(workdir)
    rule = _new_rule(run, options)
    table = _table(run, workdir, options)
    name = _name(options)
    data = cli.with_on_bad_image(run.config.data, options.on_bad_image)
    if (table.labels == UNKNOWN).all():  # as in predict
        data = dataclasses.replace(data, max_bad_fraction=1.0)
    reader = make_reader(data, len(table), workdir / f"bad_images_{name}.csv", print_warning)
    logits, readable = predict_dataset(
        run.predict, run.variables, table.paths, run.config, run.mesh, reader, name
    )
    table, logits = table.take(np.flatnonzero(readable)), logits[readable]
    if (table.labels == UNKNOWN).all():
        return _predict_only(run, workdir, name, table, logits, rule, reader)
    base, decision_rule = BaseRate(**run.metadata["base_rate"]), run.decision_rule
    if rule is not None:
        decision_rule = fit_decision_rule(table, logits, base.included_classes, rule)
        write_decision_rule(workdir, run.metadata["step"], decision_rule)
    scores, constant = model_scores(table, logits, base), constant_scores(table, base)
    report = threshold_report(table, logits, base, decision_rule, tuned_here=name == "val")
    included = classes_to_average(table.labels, np.array(base.included_classes))
    interval = map_interval(table.labels, logits, included, options.bootstrap, run.config.seed)
    result = {
        "split": name,
        "csv": options.csv,
        "images": options.images,
        "num_images": len(table),
        "unreadable": len(reader.bad),
        "tta": options.tta,
        "views": len(views(options.tta, run.config.augment.flip)),
        "step": run.metadata["step"],
        "phase": run.metadata["phase"],
        "weights": run.metadata.get("weights", RAW),
        "values": finite_or_none(scores.values),
        "mAP_interval": None if interval is None else dataclasses.asdict(interval),
        "base_rate": finite_or_none(constant.values),
        "class_ap": finite_or_none(scores.class_ap),
        "excluded_classes": scores.excluded_classes,
        **report,
    }
    written = workdir / f"eval_{name}.json", workdir / f"predictions_{name}.csv"
    write_text(written[0], json.dumps(result, indent=2) + "\n")
    write_predictions(written[1], table.filenames, decision_rule.probabilities(logits), run.classes)
    _print(run.metadata, result, table, scores, constant)
    for line in describe_threshold_report(report, decision_rule):
        console.print(escaped(line))
    if skipped := reader.bad.summary():
        print_warning(skipped)
    console.print(escaped(f"Written: {written[0]} and {written[1]}"))
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = cli.Parser(
        prog="python -m mlcls_jax.evaluate",
        description="Metrics of a trained run on one of its splits, or on other images.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--split", default="", help="train, val or test (default val)")
    parser.add_argument(
        "--csv",
        default="",
        help="labels of other images, as data.csv: in the same columns, or file names alone",
    )
    parser.add_argument(
        "--images", default="", help="their folder; alone: all of its images, without labels"
    )
    parser.add_argument(
        "--source",
        choices=SOURCES,
        help="what --csv is (default: csv by its name, or as the run's data.source)",
    )
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    cli.add_tta(parser)
    cli.add_on_bad_image(parser)
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=RESAMPLES,
        help=f"resamples for the interval of mAP (default {RESAMPLES}; 0: none)",
    )
    tuning = parser.add_argument_group(
        "tuning on val", "any of these tunes anew, for this checkpoint; the others stay as they are"
    )
    tuning.add_argument("--threshold-criterion", help="f1, precision or recall")
    tuning.add_argument("--threshold-target", type=float, help="precision or recall to reach")
    tuning.add_argument("--calibration", help="none, one temperature, or one per class")
    options = parser.parse_args(argv)
    if (options.csv or options.images) and options.split:
        parser.error("--split is one of the run's own; leave it out beside --csv and --images")
    if options.source and not options.csv:
        parser.error("--source is of --csv; leave it out")
    options.split = options.split or "val"
    if options.split not in ("train", "val", "test"):
        parser.error(f"--split {options.split}: it must be train, val or test")
    if options.bootstrap < 0:
        parser.error(f"--bootstrap {options.bootstrap}: it must be at least 0")
    other = options.csv or options.images
    for name in TUNED_BY:
        option = name.replace("_", "-")
        if getattr(options, name) is not None and (other or options.split != "val"):
            parser.error(f"--{option} is tuned on val; leave it out, or give --split val")
        if getattr(options, name) is not None and options.tta != "none":
            parser.error(f"--{option} tunes for predictions without --tta; leave one of them out")
    return options


def _new_rule(run: TrainedModel, options: argparse.Namespace) -> ThresholdCriterion | None:
    """What to tune by: the rule so far with what the options change; None if they say nothing."""
    given = {name: value for name in TUNED_BY if (value := getattr(options, name)) is not None}
    if not given:
        return None
    rule = run.decision_rule.criterion or criterion_from_config(run.config.evaluation)
    rule = dataclasses.replace(rule, **given)
    evaluation = dataclasses.replace(run.config.evaluation, **dataclasses.asdict(rule))
    validate(Config(evaluation=evaluation))
    if "threshold_target" in given and rule.threshold_criterion == "f1":
        raise ValueError(
            "--threshold-target is a precision or recall; add --threshold-criterion precision, "
            "or recall"
        )
    return rule


def _table(run: TrainedModel, workdir: Path, options: argparse.Namespace) -> LabelTable:
    data = run.config.data
    if options.csv:
        # The run's classes take the place of categories: their order is the outputs'.
        # Names of images come in a CSV, wherever the labels of the run were from.
        usual = "csv" if options.csv.lower().endswith(".csv") else data.source
        data = dataclasses.replace(data, source=options.source or usual, categories="")
        if not options.images and has_folder(data, options.csv):
            raise ValueError("--csv needs --images, the folder of its images")
        if options.images and data.source != "tfds" and not has_folder(data, options.csv):
            raise ValueError(f"--csv {options.csv} finds its images itself; leave --images out")
        table = read_table(data, options.csv, options.images, classes=run.classes, unlabelled=True)
        return table.with_classes(run.classes, options.csv, str(workdir))
    if options.images:
        return folder_table(options.images, run.classes)
    splits = read_splits_of(workdir, data)
    if options.split not in splits:
        raise ValueError(f"the run has no {options.split} split; it has {', '.join(splits)}")
    return splits[options.split]


def _name(options: argparse.Namespace) -> str:
    """What the files that are written are called after."""
    if options.csv:
        return f"csv_{Path(options.csv).stem}"
    return f"images_{Path(options.images).resolve().name}" if options.images else options.split


def _predict_only(
    run: TrainedModel,
    workdir: Path,
    name: str,
    table: LabelTable,
    logits: np.ndarray,
    rule: ThresholdCriterion | None,
    reader: Reader,
) -> int:
    """Of images of which nothing is known."""
    if rule is not None:
        raise ValueError(f"no label of {name} is known, so nothing can be tuned on it")
    written = workdir / f"predictions_{name}.csv"
    write_predictions(
        written, table.filenames, run.decision_rule.probabilities(logits), run.classes
    )
    console.print(
        f"{name}: {len(table)} images, {describe_checkpoint(run.metadata)}; no label is known, so "
        "there are predictions and no metrics"
    )
    if skipped := reader.bad.summary():
        print_warning(skipped)
    console.print(f"Written: {written}")
    return 0


def _print(
    metadata: dict, result: dict, table: LabelTable, scores: Scores, constant: Scores
) -> None:
    console.print(f"{result['split']}: {result['images']} images, {describe_checkpoint(metadata)}")
    if result["views"] > 1:
        console.print(f"--tta {result['tta']}: mean over {result['views']} views of each image")
    if interval := result["mAP_interval"]:
        low, high, count = interval["low"], interval["high"], interval["resamples"]
        console.print(
            f"mAP {scores.values['mAP']:.4f}, {interval['level']:.0%} interval {low:.4f} to "
            f"{high:.4f} ({count} resamples of the images)"
        )
    tuned = {k: f"{v:.4f}" for k, v in (result["at_thresholds"] or {}).items() if v is not None}
    rows = [
        [name, f"{scores.values[name]:.4f}", tuned.get(name, ""), f"{constant.values[name]:.4f}"]
        for name in PRINTED
    ]
    print_table("", ["metric", "model", "at thresholds", "base rate"], rows)
    per_class = [
        [
            name,
            str(positives),
            f"{scores.class_ap[name]:.3f}",
            f"{constant.class_ap[name]:.3f}",
            f"{result['thresholds'][name]:.3f}",
        ]
        for name, positives in zip(table.classes, table.positives, strict=True)
        if name not in scores.excluded_classes
    ]
    print_table("", ["class", "positives", "AP", "base rate", "threshold"], per_class)
    if scores.excluded_classes:
        console.print(
            escaped(f"In no mean, for want of positives: {', '.join(scores.excluded_classes)}")
        )


if __name__ == "__main__":
    cli.run(main)
