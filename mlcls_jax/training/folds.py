"""Cross-validation: one run for each fold, the scores of all of them, and a run on all images."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mlcls_jax.config import Config
from mlcls_jax.config.extensions import fields_of_extensions
from mlcls_jax.config.recipes import BEST, with_fields, with_recipe, with_stored_depth
from mlcls_jax.config.serialization import to_json
from mlcls_jax.data.folds import Folds, into_folds
from mlcls_jax.data.readers.csv_cells import read_csv
from mlcls_jax.data.readers.csv_writing import csv_text
from mlcls_jax.run.checkpoint_integrity import fold_folder, has_run
from mlcls_jax.run.stored_config import CONFIG, check_unchanged, read_config
from mlcls_jax.run.workdir import FOLDS, HELD_OUT, read_splits_of
from mlcls_jax.system import distributed
from mlcls_jax.system.bucket import copy_of
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.system.files import write_text
from mlcls_jax.system.invocation import command
from mlcls_jax.training.context import Ended, Extensions, KeptRule
from mlcls_jax.training.kept_data import keep_data
from mlcls_jax.training.out_of_fold import evaluate_folds, read_out_of_fold, write_folds
from mlcls_jax.training.pool import ImagePool
from mlcls_jax.training.run_data import print_filled, print_notes, with_found_depth

# Trains the run of a config in a folder.
TrainRun = Callable[[Config, Path, Extensions], Ended]


@dataclass(frozen=True)
class FoldRuns:
    """The runs of all folds in one workdir.

    Attributes:
        config: of all runs; its data.fold is -1.
        workdir: has a folder for each fold; the run on all images is in itself.
        extensions: objects of the caller.
        train: trains one run.
    """

    config: Config
    workdir: Path
    extensions: Extensions
    train: TrainRun

    def run(self) -> Ended:
        """Trains the folds that are not finished, scores all of them, and trains on all images.

        Raises:
            ValueError: the data, the config or the workdir is wrong; one line that names it.
            FloatingPointError: a loss is not finite.
        """
        return self._filled().run_filled()

    def _filled(self) -> "FoldRuns":
        """Returns these runs with the recipe of the config filled in."""
        if copy_of(self.workdir):
            raise ValueError(
                "--folds and --recipe best need a --workdir on a disk; in a bucket, train each "
                "fold by itself, with --config.data.fold=0 and so on, each in its own --workdir"
            )
        if self.extensions.batches is not None:
            raise ValueError(
                "batches of your own cannot be divided into folds; use data.folds=0, and another "
                "recipe than best"
            )
        own = fields_of_extensions(self.config.model, self.config.phases, False)
        config = with_fields(self.config, own)
        stored = read_config(self.workdir) if has_run(self.workdir) else None
        config, filled = with_recipe(config, stored)
        print_filled(f"recipe {config.recipe}", filled)
        if config.recipe == BEST and not stored:
            data = {"data.folds": config.data.folds, "data.refit": config.data.refit}
            print_filled(f"recipe {BEST}", data)
        if stored:
            fields = {"data.bit_depth": with_stored_depth(config.data, stored.data).bit_depth}
            config = with_fields(config, fields)
        return dataclasses.replace(self, config=config)

    def run_filled(self) -> Ended:
        """Does the same for a config whose recipe is filled in."""
        data = self.config.data
        folds = into_folds(read_splits_of(self.workdir, data), data.folds, data.split_seed)
        print_notes(folds.pool)
        if has_run(self.workdir):
            check_unchanged(self.workdir, self.config)
            check_same_folds(self.workdir, folds)
        accepted = self.extensions.accept_changed_data
        kept_data = keep_data(folds.pool, data.threads, accepted)
        channels = self.config.model.in_channels
        found = with_found_depth(data, folds.pool, channels)
        config = with_fields(self.config, {"data.bit_depth": found.bit_depth})
        finished = [self._is_finished(number) for number in range(data.folds)]
        distributed.wait_for_all("folds")
        if is_first_process():
            kept_data.open(self.workdir, self.config)
            write_text(self.workdir / CONFIG, to_json(config))  # with the depth that was found
            write_text(self.workdir / FOLDS, folds_csv(folds))
        made = self.extensions.made
        pool = ImagePool(folds) if made is None else ImagePool(folds, made)
        extensions = dataclasses.replace(self.extensions, pool=pool)
        runs = dataclasses.replace(self, config=config, extensions=extensions)
        return runs._train(folds, finished)

    def _train(self, folds: Folds, finished: list[bool]) -> Ended:
        """Trains the folds that are not finished, scores all, and trains on all images."""
        for number, is_finished in enumerate(finished):
            title = f"Fold {number} ({number + 1} of {len(finished)})"
            if is_finished:
                console.print(f"{title}: finished before")
                continue
            console.print(f"{title}: {fold_folder(self.workdir, number)}")
            fields = {"data.fold": number, "data.refit": False, "minutes": 0.0}
            config = with_fields(self.config, fields)
            ended = self.train(config, fold_folder(self.workdir, number), self.extensions)
            if ended.signal:
                if ended.finished:  # the signal came during its last evaluation
                    console.print(f"Stopped; run the same command to continue {self.workdir}.")
                return Ended(finished=False, signal=ended.signal)
            distributed.wait_for_all("folds")  # the first process writes the scores
        out_of_fold = read_out_of_fold(self.workdir, folds.table, folds.fold)
        last = self.config.phases[-1].name
        scores = evaluate_folds(out_of_fold, self.config.evaluation, self.config.seed, phase=last)
        if is_first_process():
            write_folds(self.workdir, out_of_fold, scores)
        kept = KeptRule(scores.decision_rule, out_of_fold.weights)
        return self._refit(dataclasses.replace(self.extensions, kept=kept))

    def _is_finished(self, number: int) -> bool:
        return (fold_folder(self.workdir, number) / HELD_OUT).exists()

    def _refit(self, extensions: Extensions) -> Ended:
        """Trains on the images of all folds, if the config asks for it."""
        if self.config.data.refit:
            console.print(f"Refit on all {self.config.data.folds} folds: {self.workdir}")
            config = with_fields(self.config, {"minutes": 0.0})
            return self.train(config, self.workdir, extensions)
        console.print(
            "No model was trained on all images; to train one: "
            f"{command('train')} --workdir {self.workdir} --refit"
        )
        return Ended(finished=True)


def folds_csv(folds: Folds) -> str:
    """Returns a CSV with the columns filename and fold."""
    return csv_text(pd.DataFrame({"filename": folds.table.filenames, "fold": folds.fold}))


def check_same_folds(workdir: Path, folds: Folds) -> None:
    """Checks that the folds of a run that continues are those of its start.

    Args:
        workdir: of all folds.
        folds: as they are drawn now.

    Raises:
        ValueError: the folds differ.
    """
    path = workdir / FOLDS
    if not path.exists():
        return
    advice = "restore the file, or choose another --workdir"
    saved = [read_csv(path).column(name, advice).texts for name in ("filename", "fold")]
    if saved != [list(folds.table.filenames), list(map(str, folds.fold))]:
        raise ValueError(
            f"{path}: the folds drawn now are others, because the labels have changed; restore "
            "them, or choose another --workdir"
        )
