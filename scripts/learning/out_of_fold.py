"""Prints out-of-fold scores of stored runs, with paired differences from the first one.

    python scripts/learning/out_of_fold.py learning/ifct2017/lite0 before after timm

Each argument after the folder names a folder of results, `SEED_FOLD.npz` with the arrays `rows`
(of the label CSV), `labels` and `logits`.  "after:head" takes the array logits_head instead.  All
seeds that have every fold are used.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.evaluation.base_rate import probabilities
from mlcls_jax.evaluation.bootstrap import RankedClass
from mlcls_jax.evaluation.calibration import calibration_error
from mlcls_jax.evaluation.decision_rule import ThresholdCriterion, cross_fit
from mlcls_jax.evaluation.metrics import binary_cross_entropy, decision_values

FOLDS, RESAMPLES, LEVEL = 5, 2000, 95
NOT_CLASSES = ("filename", "split", "fold")
MIN_POSITIVES = 10  # classes with fewer images are not averaged


@dataclass(frozen=True)
class OutOfFold:
    """Scores of all images, each by the network that was not trained on it.

    Attributes:
        labels: int8 [image, class] of 1, 0 or UNKNOWN.
        fold: int [image] for each seed.
        logits: float [image, class] for each seed.
        seconds: mean time of a run.
        most: positives of a class to be averaged, at most.
    """

    labels: np.ndarray
    fold: dict[int, np.ndarray]
    logits: dict[int, np.ndarray]
    seconds: float
    most: float = math.inf

    @property
    def included(self) -> np.ndarray:
        """Bool [class], classes in the averages."""
        positives = (self.labels == 1).sum(axis=0)
        return (positives >= MIN_POSITIVES) & (positives <= self.most)


@dataclass(frozen=True)
class FoldRun:
    """A fold to train for.

    Attributes:
        path: file of its result.
        seed: of the folds.
        index: of the fold, from 0.
        held_out: rows of the images to score.
    """

    path: Path
    seed: int
    index: int
    held_out: np.ndarray

    @property
    def own_seed(self) -> int:
        """Seed of everything random in this run."""
        return 10 * self.seed + self.index


def fold_of(labels: np.ndarray, seed: int, folds: int = FOLDS) -> np.ndarray:
    """Returns the fold of each image, stratified by class: int [image]."""
    splitter = MultilabelStratifiedKFold(folds, shuffle=True, random_state=seed)
    fold = np.zeros(len(labels), int)
    for index, (_, held_out) in enumerate(splitter.split(labels, labels == 1)):
        fold[held_out] = index
    return fold


def read_labels(csv: Path) -> tuple[pd.DataFrame, list[str], np.ndarray]:
    """Returns a label CSV, its classes, and its labels: int8 [image, class]."""
    table = pd.read_csv(csv)
    classes = [name for name in table.columns if name not in NOT_CLASSES]
    return table, classes, table[classes].fillna(UNKNOWN).to_numpy(np.int8)


def folds_to_run(
    folder: Path, table: pd.DataFrame, labels: np.ndarray, seeds: Iterable[int]
) -> Iterator[FoldRun]:
    """Yields the folds of a row that have no result yet, and creates its folder.

    The folds are those of the column `fold`, or stratified ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        fold = table["fold"].to_numpy() if "fold" in table else fold_of(labels, seed)
        for index in range(FOLDS):
            path = folder / f"{seed}_{index}.npz"
            if not path.exists():
                yield FoldRun(path, seed, index, np.flatnonzero(fold == index))


def training_rows(run: FoldRun, images: int, most: int | None) -> np.ndarray:
    """Returns the rows to train on: int [row], those of the other folds or `most` of them."""
    train = np.setdiff1d(np.arange(images), run.held_out)
    return np.random.default_rng(run.seed).permutation(train)[:most] if most else train


def save(run: FoldRun, labels: np.ndarray, seconds: float, logits: dict[str, np.ndarray]) -> None:
    """Writes the result of a fold, as `read` expects it, and prints a line.

    Args:
        run: the fold.
        labels: of all images.
        seconds: time of the run.
        logits: of the held-out images, as "logits" and "logits_NAME".
    """
    facts = {"rows": run.held_out, "labels": labels[run.held_out], "images": len(labels)}
    arrays: dict[str, Any] = {"seconds": seconds, **facts, **logits}
    np.savez(run.path, **arrays)
    name = f"{run.path.parent.name} seed {run.seed} fold {run.index}"
    print(f"{name}: {seconds:.0f} s", flush=True)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the scripts that train folds, and the name of the row."""
    add = parser.add_argument
    add("--csv", type=Path, required=True, help="filename, one column per class, perhaps fold")
    add("--images", type=Path, required=True, help="folder of the images")
    add("--out", type=Path, required=True, help="folder for the rows")
    add("--variant", default="lite0", help="network with weights named imagenet")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds of folds and of training")
    add("name", help="name of the row")


def read(folder: Path, name: str, most: float = math.inf) -> OutOfFold:
    """Reads the results of one row.

    Args:
        folder: of the data set and network.
        name: of the row, with ":ARRAY" for another array than logits.
        most: see OutOfFold.

    Raises:
        ValueError: no seed has all of its folds.
    """
    name, _, array = name.partition(":")
    parts: dict[int, dict[int, dict[str, np.ndarray]]] = {}
    for path in sorted((folder / name).glob("*.npz")):
        if match := re.fullmatch(r"(\d+)_(\d+)", path.stem):
            parts.setdefault(int(match[1]), {})[int(match[2])] = dict(np.load(path))
    complete = {seed: runs for seed, runs in parts.items() if _covers_all(runs)}
    if not complete:
        raise ValueError(f"{folder / name}: no seed has the results of all folds; run them first")
    some = next(iter(next(iter(complete.values())).values()))
    shape = int(some["images"]), some["labels"].shape[1]
    labels, fold, logits = np.zeros(shape, np.int8), {}, {}
    for seed, runs in complete.items():
        fold[seed], logits[seed] = np.zeros(shape[0], int), np.zeros(shape)
        for index, run in runs.items():
            labels[run["rows"]], fold[seed][run["rows"]] = run["labels"], index
            logits[seed][run["rows"]] = run[f"logits_{array}" if array else "logits"]
    seconds = [float(run["seconds"]) for runs in complete.values() for run in runs.values()]
    return OutOfFold(labels, fold, logits, float(np.mean(seconds)), most)


def _covers_all(runs: dict[int, dict[str, np.ndarray]]) -> bool:
    """Returns whether each image is in one of the folds."""
    rows = np.sort(np.concatenate([run["rows"] for run in runs.values()]))
    return np.array_equal(rows, np.arange(int(next(iter(runs.values()))["images"])))


def pooled_map(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the mAP over all images for each column of weights [image, resample]."""
    classes = [RankedClass(labels[:, c], logits[:, c]) for c in range(labels.shape[1])]
    return np.nanmean([ranked.average_precisions(weights) for ranked in classes], axis=0)


def fold_map(labels: np.ndarray, logits: np.ndarray, fold: np.ndarray) -> float:
    """Returns the mean over the folds of the mAP within a fold."""
    ones = np.ones((len(labels), 1), np.float32)
    values = []
    for index in np.unique(fold):
        chosen = fold == index
        present = (labels[chosen] == 1).any(axis=0)
        part = labels[chosen][:, present], logits[chosen][:, present], ones[chosen]
        values.append(pooled_map(*part)[0])
    return float(np.mean(values))


def difference(one: OutOfFold, other: OutOfFold, seed: int = 0) -> tuple[float, float, float]:
    """Returns the mean difference of pooled mAP over the shared seeds, and its interval.

    Images are drawn with replacement, the same ones for both rows and for all seeds.

    Args:
        one, other: rows on the same data; the result is one - other.
        seed: of the draws.
    """
    included, images = one.included, len(one.labels)
    rng = np.random.default_rng(seed)
    draws = [rng.multinomial(images, np.full(images, 1 / images)) for _ in range(RESAMPLES)]
    weights = np.stack([np.ones(images), *draws], axis=1).astype(np.float32)
    labels = one.labels[:, included]
    shared = sorted(one.logits.keys() & other.logits.keys())
    if not shared:
        return float("nan"), float("nan"), float("nan")
    gains = np.mean(
        [
            pooled_map(labels, one.logits[key][:, included], weights)
            - pooled_map(labels, other.logits[key][:, included], weights)
            for key in shared
        ],
        axis=0,
    )
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(gains[1:], [tail, 100 - tail])
    return float(gains[0]), float(low), float(high)


def summary(row: OutOfFold) -> dict[str, float]:
    """Returns means over the seeds of pooled and per-fold mAP, loss, calibration error and F1.

    The F1 is CF1 at thresholds that were tuned on other images, and "calibrated" values divide the
    logits by a temperature that was fitted to other images; see `cross_fit`.
    """
    included = row.included
    labels = row.labels[:, included]
    names = tuple(f"{c}" for c in range(labels.shape[1]))
    table = LabelTable("", tuple(f"{i}.jpg" for i in range(len(labels))), labels, names)
    criterion = ThresholdCriterion("f1", 0.9, 10, "one")
    ones, values = np.ones((len(labels), 1), np.float32), []
    for seed, all_logits in row.logits.items():
        logits = all_logits[:, included]
        calibrated, present = cross_fit(table, logits, [True] * len(names), criterion)
        everywhere = np.ones(len(names), bool)
        values.append(
            {
                "mAP": float(pooled_map(labels, logits, ones)[0]),
                "fold mAP": fold_map(labels, logits, row.fold[seed]),
                "loss": binary_cross_entropy(labels, probabilities(logits)),
                "loss calibrated": binary_cross_entropy(labels, calibrated),
                "ECE": calibration_error(labels, probabilities(logits)),
                "ECE calibrated": calibration_error(labels, calibrated),
                "CF1": decision_values(labels, present, everywhere)["CF1"],
            }
        )
    return {name: float(np.mean([one[name] for one in values])) for name in values[0]}


def main(arguments: list[str]) -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the data set and network")
    parser.add_argument("rows", nargs="+", help="names of rows; the first is the baseline")
    parser.add_argument(
        "--most",
        type=float,
        default=math.inf,
        help="average only classes with at most this many images",
    )
    options = parser.parse_args(arguments)
    baseline: OutOfFold | None = None
    columns = ("mAP", "fold mAP", "loss", "loss calibrated", "ECE", "ECE calibrated", "CF1")
    print(f"| row | seeds | difference | {' | '.join(columns)} | seconds |")
    print(f"|{' --- |' * (len(columns) + 4)}")
    for name in options.rows:
        row = read(options.folder, name, options.most)
        values, gain = summary(row), ""
        if baseline is not None:
            mean, low, high = difference(row, baseline)
            gain = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        baseline = baseline or row
        cells = [f"{values[column]:.4f}" for column in columns]
        print(f"| {name} | {len(row.logits)} | {gain} | {' | '.join(cells)} | {row.seconds:.0f} |")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
