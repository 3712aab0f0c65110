"""Prints out-of-fold scores of stored rows, with paired differences from the first one.

    python scripts/learning/out_of_fold.py learning/ifct2017/lite0 before after timm

Each argument after the folder names a row; see fold_runs.py.  "after:head" takes its array
logits_head instead of logits.  All seeds that have every fold are used.  --ensembles adds the mean
of their probabilities: the seeds have other folds, so each network was trained on other images, but
none on the one that it scores.
"""

import argparse
import itertools
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import logit

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.evaluation.base_rate import probabilities
from mlcls_jax.evaluation.bootstrap import RankedClass
from mlcls_jax.evaluation.calibration import calibration_error
from mlcls_jax.evaluation.decision_rule import ThresholdCriterion, cross_fit
from mlcls_jax.evaluation.metrics import binary_cross_entropy, decision_values

RESAMPLES, LEVEL = 2000, 95
TINY = 1e-9  # distance of the mean probabilities from 0 and 1
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

    @cached_property
    def calibrated(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Probabilities and predicted classes, [image, included class], by seed; see `cross_fit`.

        The temperature and the thresholds of an image were fitted to other images.
        """
        labels = self.labels[:, self.included]
        names = tuple(map(str, range(labels.shape[1])))
        table = LabelTable("", tuple(f"{i}.jpg" for i in range(len(labels))), labels, names)
        criterion = ThresholdCriterion("f1", 0.9, 10, "one")
        return {
            seed: cross_fit(table, logits[:, self.included], [True] * len(names), criterion)
            for seed, logits in self.logits.items()
        }


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


def ensemble(row: OutOfFold) -> OutOfFold:
    """Returns a row with the mean probability over the seeds in place of each seed's."""
    mean = np.mean([probabilities(logits) for logits in row.logits.values()], axis=0)
    scores = logit(np.clip(mean, TINY, 1 - TINY))
    seconds = row.seconds * len(row.logits)
    return replace(row, logits=dict.fromkeys(row.logits, scores), seconds=seconds)


def _covers_all(runs: dict[int, dict[str, np.ndarray]]) -> bool:
    """Returns whether each image is in one of the folds."""
    rows = np.sort(np.concatenate([run["rows"] for run in runs.values()]))
    return np.array_equal(rows, np.arange(int(next(iter(runs.values()))["images"])))


def pooled_map(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the mAP over all images for each column of weights [image, resample]."""
    classes = [RankedClass(labels[:, c], logits[:, c]) for c in range(labels.shape[1])]
    return np.nanmean([ranked.average_precisions(weights) for ranked in classes], axis=0)


def fold_map(
    labels: np.ndarray, logits: np.ndarray, fold: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Returns the mean over the folds of the mAP within a fold, for each column of weights."""
    values = []
    for index in np.unique(fold):
        chosen = fold == index
        present = (labels[chosen] == 1).any(axis=0)
        part = labels[chosen][:, present], logits[chosen][:, present], weights[chosen]
        values.append(pooled_map(*part))
    return np.mean(values, axis=0)


def resamples(images: int, seed: int = 0) -> np.ndarray:
    """Returns weights of the images, float32 [image, 1 + resample]: ones, then drawn ones."""
    rng = np.random.default_rng(seed)
    draws = [rng.multinomial(images, np.full(images, 1 / images)) for _ in range(RESAMPLES)]
    return np.stack([np.ones(images), *draws], axis=1).astype(np.float32)


def interval(gains: list[np.ndarray]) -> tuple[float, float, float]:
    """Returns the mean difference over the seeds, and its interval; NaN without a seed.

    Args:
        gains: [1 + resample] for each seed, of the weights of `resamples`.
    """
    if not gains:
        return float("nan"), float("nan"), float("nan")
    mean, tail = np.mean(gains, axis=0), (100 - LEVEL) / 2
    low, high = np.percentile(mean[1:], [tail, 100 - tail])
    return float(mean[0]), float(low), float(high)


def map_difference(one: OutOfFold, other: OutOfFold) -> tuple[float, float, float]:
    """Returns the difference one - other of the pooled mAP, and its interval."""

    def score(row: OutOfFold, seed: int, weights: np.ndarray) -> np.ndarray:
        return pooled_map(row.labels[:, row.included], row.logits[seed][:, row.included], weights)

    return difference(one, other, score)


def fold_map_difference(one: OutOfFold, other: OutOfFold) -> tuple[float, float, float]:
    """Returns the difference one - other of the fold mAP, and its interval."""

    def score(row: OutOfFold, seed: int, weights: np.ndarray) -> np.ndarray:
        labels, logits = row.labels[:, row.included], row.logits[seed][:, row.included]
        return fold_map(labels, logits, row.fold[seed], weights)

    return difference(one, other, score)


def loss_difference(one: OutOfFold, other: OutOfFold) -> tuple[float, float, float]:
    """Returns the difference one - other of the loss after one temperature, and its interval."""

    def score(row: OutOfFold, seed: int, weights: np.ndarray) -> np.ndarray:
        labels = row.labels[:, row.included]
        known = (labels != UNKNOWN).sum(axis=1)
        pairs = zip(labels, row.calibrated[seed][0], strict=True)
        means = [binary_cross_entropy(label[None], p[None]) for label, p in pairs]
        sums = np.nan_to_num(means) * known  # NaN where no label is known
        return sums @ weights / (known @ weights)

    return difference(one, other, score)


def difference(
    one: OutOfFold, other: OutOfFold, score: Callable[[OutOfFold, int, np.ndarray], np.ndarray]
) -> tuple[float, float, float]:
    """Returns the mean difference one - other of a score, and its interval.

    Images are drawn with replacement, the same ones for both rows and for all shared seeds.

    Args:
        one, other: the rows.
        score: (row, seed, weights [image, 1 + resample]) -> [1 + resample].
    """
    weights = resamples(len(one.labels))
    shared = sorted(one.logits.keys() & other.logits.keys())
    return interval([score(one, seed, weights) - score(other, seed, weights) for seed in shared])


def summary(row: OutOfFold) -> dict[str, float]:
    """Returns means over the seeds of pooled and per-fold mAP, loss, calibration error and F1.

    The F1 is CF1, and with the "calibrated" values it is that of `OutOfFold.calibrated`.
    """
    included = row.included
    labels = row.labels[:, included]
    ones, values = np.ones((len(labels), 1), np.float32), []
    for seed, (calibrated, present) in row.calibrated.items():
        logits = row.logits[seed][:, included]
        everywhere = np.ones(labels.shape[1], bool)
        values.append(
            {
                "mAP": float(pooled_map(labels, logits, ones)[0]),
                "fold mAP": float(fold_map(labels, logits, row.fold[seed], ones)[0]),
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
    parser.add_argument("--ensembles", action="store_true", help="also the mean over the seeds")
    options = parser.parse_args(arguments)
    baseline: OutOfFold | None = None
    columns = ("mAP", "fold mAP", "loss", "loss calibrated", "ECE", "ECE calibrated", "CF1")
    gains = ("mAP difference", "fold mAP difference", "loss difference")
    names = ("row", "seeds", *gains, *columns, "seconds")
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    rows = [(name, read(options.folder, name, options.most)) for name in options.rows]
    if options.ensembles:
        both = [((name, row), (f"{name}, mean", ensemble(row))) for name, row in rows]
        rows = list(itertools.chain.from_iterable(both))
    for name, row in rows:
        values, cells = summary(row), [""] * len(gains)
        if baseline is not None:
            compared = (map_difference, fold_map_difference, loss_difference)
            found = [compare(row, baseline) for compare in compared]
            cells = [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for mean, low, high in found]
        baseline = baseline or row
        cells += [f"{values[column]:.4f}" for column in columns]
        print(f"| {name} | {len(row.logits)} | {' | '.join(cells)} | {row.seconds:.0f} |")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
