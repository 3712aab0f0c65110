"""The folds that a row of results is trained on, and the files of their results.

screen.py and train_folds.py write them, and out_of_fold.py reads them: a folder for each row, with
`SEED_FOLD.npz` for each fold, of the arrays `rows` (of the label CSV), `labels` and `logits`.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

from mlcls_jax.data.label_table import UNKNOWN

FOLDS = 5
NOT_CLASSES = ("filename", "split", "fold")


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
