"""Evaluates a trained run: metrics next to the base rate, and a probability per image and class.

mlcls-jax evaluate --workdir runs/b5 --split val
mlcls-jax evaluate --workdir runs/b5 --csv test.csv --images test/
mlcls-jax evaluate --workdir runs/b5 --split val \\
    --threshold-criterion precision --threshold-target 0.95
mlcls-jax evaluate --workdir runs/b5 --images photos/

The second command writes eval_csv_test.json and predictions_csv_test.csv. The third tunes the
thresholds again and writes them to decision_rule.json, which predict and export read. For images
without labels, in a folder or in a CSV of file names, evaluate writes predictions only.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from mlcls_jax.options.evaluate import AT_RECALL as AT_RECALL
from mlcls_jax.options.evaluate import RESAMPLES as RESAMPLES
from mlcls_jax.options.evaluate import check, parse, source_of, tuning_of

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

import numpy as np

from mlcls_jax import cli
from mlcls_jax.config import Config
from mlcls_jax.config.checks import validate
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.loaders.loader import Reader, cores, make_reader
from mlcls_jax.data.readers.read_table import has_folder, read_table
from mlcls_jax.data.readers.unlabelled import folder_table
from mlcls_jax.evaluation.base_rate import BaseRate
from mlcls_jax.evaluation.decision_rule import (
    ThresholdCriterion,
    criterion_from_config,
    describe_threshold_report,
    fit_decision_rule,
)
from mlcls_jax.run.best_scores import write_decision_rule
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.fingerprints import check_split_kept
from mlcls_jax.run.score_table import print_scores, score_table
from mlcls_jax.run.trained_model import (
    TrainedModel,
    describe_checkpoint,
    load_trained_model,
    write_predictions,
)
from mlcls_jax.run.tta import views, with_views
from mlcls_jax.run.workdir import OUT_OF_FOLD, read_splits_of
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console, escaped, print_warning
from mlcls_jax.system.files import check_writable, write_text


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options = parse(argv)
    distributed.start()
    workdir = open_workdir(options.workdir)
    run = with_views(
        load_trained_model(workdir, options.checkpoint, options.accept_changed_data), options.tta
    )
    check_writable(workdir)
    criterion = _new_criterion(run, options)
    table = _table(run, workdir, options)
    name = _name(options)
    data = cli.with_on_bad_image(run.config.data, options.on_bad_image)
    if (table.labels == UNKNOWN).all():  # bad images without labels change no metric
        data = dataclasses.replace(data, max_bad_fraction=1.0)
    channels, listed = run.network.in_channels, workdir / f"bad_images_{name}.csv"
    reader = make_reader(data, channels, len(table), listed, print_warning)
    logits, readable = run.outputs(table.paths, reader, name)
    table, logits = table.take(np.flatnonzero(readable)), logits[readable]
    if (table.labels == UNKNOWN).all():
        return _predict_only(run, workdir, name, table, logits, criterion, reader)
    decision_rule = run.decision_rule
    if criterion is not None:
        included = BaseRate(**run.metadata["base_rate"]).included_classes
        decision_rule = fit_decision_rule(table, logits, included, criterion)
        write_decision_rule(workdir, run.metadata["step"], decision_rule)
    scored, scores, constant = score_table(
        run.metadata,
        table,
        logits,
        decision_rule,
        tuned_here=name == "val",
        seed=run.config.seed,
        resamples=options.bootstrap,
        at_recall=options.at_recall,
    )
    result = {
        "split": name,
        "csv": options.csv,
        "images": options.images,
        "num_images": len(table),
        "unreadable": len(reader.bad),
        "tta": options.tta,
        "views": len(views(options.tta, run.config.augment.symmetry)),
        **scored,
    }
    written = workdir / f"eval_{name}.json", workdir / f"predictions_{name}.csv"
    write_text(written[0], json.dumps(result, indent=2) + "\n")
    write_predictions(written[1], table.filenames, decision_rule.probabilities(logits), run.classes)
    print_scores(describe_checkpoint(run.metadata), result, table, scores, constant)
    for line in describe_threshold_report(scored, decision_rule):
        console.print(escaped(line))
    if skipped := reader.bad.summary():
        print_warning(skipped)
    console.print(escaped(f"Wrote {written[0]} and {written[1]}"))
    return 0


def _new_criterion(run: TrainedModel, options: argparse.Namespace) -> ThresholdCriterion | None:
    """Returns the criterion so far with the changes of the options; None if they change nothing."""
    given = tuning_of(options)
    if not given:
        return None
    criterion = run.decision_rule.criterion or criterion_from_config(run.config.evaluation)
    criterion = dataclasses.replace(criterion, **given)
    evaluation = dataclasses.replace(run.config.evaluation, **dataclasses.asdict(criterion))
    validate(Config(evaluation=evaluation))
    if "threshold_target" in given and criterion.threshold_criterion == "f1":
        raise ValueError(
            "--threshold-target needs a precision or a recall to reach, but the criterion is f1; "
            "add --threshold-criterion precision or --threshold-criterion recall"
        )
    return criterion


def _table(run: TrainedModel, workdir: Path, options: argparse.Namespace) -> LabelTable:
    """Returns the images to evaluate, with their labels if they have any."""
    if options.csv:
        return labels_for(run, options.csv, options.images, options.source)
    if options.images:
        return folder_table(options.images, run.classes)
    splits = read_splits_of(workdir, run.config.data)
    if options.split == "val" and "val" not in splits:
        raise ValueError(
            "--split val: the folds of the run replaced it, and its model was trained on all of "
            f"their images; {workdir / f'eval_{OUT_OF_FOLD}.json'} has the out-of-fold scores. "
            f"Choose from {', '.join(splits)}"
        )
    if options.split not in splits:
        raise ValueError(
            f"--split {options.split}: the run has no such split; choose from {', '.join(splits)}"
        )
    table, threads = splits[options.split], run.config.data.threads or cores() + 1
    check_split_kept(workdir, options.split, table, threads, options.accept_changed_data)
    return table


def labels_for(run: TrainedModel, csv: str, images: str, source: str | None = None) -> LabelTable:
    """Returns labels of other images, with the classes of a run in their order.

    Args:
        run: the trained run.
        csv: label file, or data set; a CSV may have file names only.
        images: folder of the images; "" for a source that has its own.
        source: as data.source; None: csv if the name ends in .csv, otherwise that of the run.

    Raises:
        ValueError: the labels cannot be read, or have other classes.
    """
    # The classes of the run replace data.categories, because they are in the order of the outputs.
    source = source_of(csv, source, run.config.data)
    data = dataclasses.replace(run.config.data, source=source, categories="")
    if not images and has_folder(data, csv):
        raise ValueError("--csv needs --images; set it to the folder of the images")
    if images and data.source != "tfds" and not has_folder(data, csv):
        raise ValueError(f"--csv {csv} has its own images; leave --images out")
    table = read_table(data, csv, images, classes=run.classes, unlabelled=True)
    for note in table.notes:
        console.print(note)
    return table.with_classes(run.classes, csv, "the run")


def _name(options: argparse.Namespace) -> str:
    """Returns the name of the evaluated images, which is part of the names of the output files."""
    if options.csv:
        return f"csv_{Path(options.csv).stem}"
    return f"images_{Path(options.images).resolve().name}" if options.images else options.split


def _predict_only(
    run: TrainedModel,
    workdir: Path,
    name: str,
    table: LabelTable,
    logits: np.ndarray,
    criterion: ThresholdCriterion | None,
    reader: Reader,
) -> int:
    """Writes predictions for images without labels, and returns the exit code."""
    if criterion is not None:
        raise ValueError(
            f"{name}: no label is known, so nothing can be tuned; leave out the tuning options"
        )
    written = workdir / f"predictions_{name}.csv"
    write_predictions(
        written, table.filenames, run.decision_rule.probabilities(logits), run.classes
    )
    console.print(
        f"{name}: {len(table)} images, {describe_checkpoint(run.metadata)}; no label is known, so "
        "only predictions are written"
    )
    if skipped := reader.bad.summary():
        print_warning(skipped)
    console.print(f"Wrote {written}")
    return 0


if __name__ == "__main__":
    cli.run(main)
