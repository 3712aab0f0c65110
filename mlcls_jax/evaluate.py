"""Scores a trained run: metrics beside the base rate, and a probability per picture and class.

python -m mlcls_jax.evaluate --workdir runs/b5 --split val
python -m mlcls_jax.evaluate --workdir runs/b5 --csv test.csv --images test/

The second writes eval_csv_test.json and predictions_csv_test.csv.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax import cli, devices
from mlcls_jax.data.labels import LabelTable, read_labels
from mlcls_jax.data.packed import is_packed, read_packed
from mlcls_jax.data.pipeline import make_reader
from mlcls_jax.files import write_text
from mlcls_jax.metrics import Scores, finite_or_none
from mlcls_jax.scoring import BaseRate, constant_scores, model_scores, probabilities, score
from mlcls_jax.terminal import console, print_table, print_warning
from mlcls_jax.tta import views, with_views
from mlcls_jax.workdir import (
    RAW,
    Run,
    describe_checkpoint,
    load_run,
    read_splits_of,
    write_predictions,
)

PRINTED = ("mAP", "CF1", "CP", "CR", "OF1", "OP", "OR", "CF1@3", "OF1@3", "loss")


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    options = parse(argv)
    devices.start()
    workdir = Path(options.workdir)
    run = with_views(load_run(workdir, options.checkpoint), options.tta)
    table = _table(run, workdir, options)
    name = f"csv_{Path(options.csv).stem}" if options.csv else options.split
    data = cli.with_on_bad_image(run.config.data, options.on_bad_image)
    reader = make_reader(data, len(table), workdir / f"bad_images_{name}.csv", print_warning)
    logits, readable = score(
        run.predict, run.variables, table.paths, run.config, run.mesh, reader, name
    )
    table, logits = table.take(np.flatnonzero(readable)), logits[readable]
    base = BaseRate(**run.meta["base_rate"])
    scores, constant = model_scores(table, logits, base), constant_scores(table, base)
    result = {
        "split": name,
        "csv": options.csv,
        "images": options.images,
        "pictures": len(table),
        "unreadable": len(reader.bad),
        "tta": options.tta,
        "views": len(views(options.tta, run.config.augment.flip)),
        "step": run.meta["step"],
        "phase": run.meta["phase"],
        "weights": run.meta.get("weights", RAW),
        "values": finite_or_none(scores.values),
        "base_rate": finite_or_none(constant.values),
        "class_ap": finite_or_none(scores.class_ap),
        "left_out": scores.left_out,
    }
    written = workdir / f"eval_{name}.json", workdir / f"predictions_{name}.csv"
    write_text(written[0], json.dumps(result, indent=2) + "\n")
    write_predictions(written[1], table.filenames, probabilities(logits), run.classes)
    _print(run.meta, result, table, scores, constant)
    if skipped := reader.bad.summary():
        print_warning(skipped)
    console.print(f"Written: {written[0]} and {written[1]}")
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m mlcls_jax.evaluate",
        description="Metrics of a trained run on one of its splits, or on the pictures of a CSV.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--split", default="", help="train, val or test (default val)")
    parser.add_argument(
        "--csv",
        default="",
        help="labels of other pictures, in the same columns; or a packed data set",
    )
    parser.add_argument("--images", default="", help="their folder")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    cli.add_tta(parser)
    cli.add_on_bad_image(parser)
    options = parser.parse_args(argv)
    if bool(options.images) != bool(options.csv and not is_packed(options.csv)):
        parser.error("--csv and --images go together; a packed data set is a --csv alone")
    if options.csv and options.split:
        parser.error("--split is one of the run's own; leave it out beside --csv")
    options.split = options.split or "val"
    if options.split not in ("train", "val", "test"):
        parser.error(f"--split {options.split}: it must be train, val or test")
    return options


def _table(run: Run, workdir: Path, options: argparse.Namespace) -> LabelTable:
    data = run.config.data
    if options.csv:
        columns: dict[str, Any] = {
            "filename_column": data.filename_column,
            "split_column": data.split_column,
        }
        if is_packed(options.csv):
            table = read_packed(options.csv, **columns)
        else:
            table = read_labels(options.csv, options.images, **columns)
        return table.with_classes(run.classes, options.csv, str(workdir))
    splits = read_splits_of(workdir, data)
    if options.split not in splits:
        raise ValueError(f"the run has no {options.split} split; it has {', '.join(splits)}")
    return splits[options.split]


def _print(meta: dict, result: dict, table: LabelTable, scores: Scores, constant: Scores) -> None:
    console.print(f"{result['split']}: {result['pictures']} pictures, {describe_checkpoint(meta)}")
    if result["views"] > 1:
        console.print(f"--tta {result['tta']}: mean over {result['views']} views of each picture")
    rows = [
        [name, f"{scores.values[name]:.4f}", f"{constant.values[name]:.4f}"] for name in PRINTED
    ]
    print_table("", ["metric", "model", "base rate"], rows)
    per_class = [
        [name, str(positives), f"{scores.class_ap[name]:.3f}", f"{constant.class_ap[name]:.3f}"]
        for name, positives in zip(table.classes, table.positives, strict=True)
        if name not in scores.left_out
    ]
    print_table("", ["class", "positives", "AP", "base rate"], per_class)
    if scores.left_out:
        console.print(f"In no mean, for want of positives: {', '.join(scores.left_out)}")


if __name__ == "__main__":
    cli.run(main)
