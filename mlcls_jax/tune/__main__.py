"""Searches for better values of a config with Optuna; a trial is a cross-validation.

mlcls-jax tune --config lite0 --csv labels.csv --images photos --workdir runs/tune --trials 30
mlcls-jax train --config runs/tune/best.py --workdir runs/best
"""

import sys

from mlcls_jax.system import early_signals, heap

if __name__ == "__main__":
    heap.restart_with_heap()
    early_signals.leave_on_signals()  # the imports below take seconds

from mlcls_jax.options.tune import check, config_of, parse, trial_config

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlcls_jax import cli
from mlcls_jax.config import Config
from mlcls_jax.config.checks import validate
from mlcls_jax.config.recipes import with_fields, with_recipe
from mlcls_jax.config.serialization import flatten_fields
from mlcls_jax.evaluation.best_metric import LOWER_IS_BETTER
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.run.checkpoint_integrity import fold_folder
from mlcls_jax.run.workdir import LOCK, OUT_OF_FOLD
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console, escaped
from mlcls_jax.system.files import make_folder
from mlcls_jax.system.lock import held
from mlcls_jax.train import train
from mlcls_jax.training.context import Extensions
from mlcls_jax.tune.results import print_trials, trials_frame, write_results
from mlcls_jax.tune.search import Search
from mlcls_jax.tune.space import defaults, space

FEATURES = ("cached_views", "model.head")  # fields that decide which features a trial needs


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options, overrides = parse(argv)
    distributed.start()
    workdir = Path(options.workdir)
    make_folder(workdir)
    base = with_recipe(trial_config(options, overrides))[0]
    values = flatten_fields(dataclasses.asdict(base))
    dropout = VARIANTS[base.model.variant].dropout
    found = space(values, dropout, finetune=options.finetune, decoder=options.decoder)
    metric = base.evaluation.best
    about = {"config": values, "finetune": options.finetune, "decoder": options.decoder}
    search = Search(
        workdir,
        found,
        defaults(values, dropout, found),
        metric not in LOWER_IS_BETTER,
        options.sampler,
        base.seed,
        json.loads(json.dumps(about)),
    )
    trials = Trials(base, workdir)
    with held(workdir / LOCK):
        search.run(options.trials, trials.run, lambda trial: print_trial(trial, metric))
        ended = search.trials()
        if not ended:
            raise ValueError("no trial has a finite loss; lower the learning rates of the config")
        frame = trials_frame(
            ended, {one.number: trials.deviation(one.number) for one in ended}, metric
        )
        print_trials(frame, metric)
        best = with_fields(config_of(options, overrides), ended[0].params)
        title = (
            f"The best of {options.trials} trials: {metric} {ended[0].value:.4f} over the folds."
        )
        files = write_results(workdir, frame, metric, title, dataclasses.asdict(best))
    console.print(escaped(f"Wrote {', '.join(map(str, files))}"))
    return 0


def print_trial(trial: Any, metric: str) -> None:
    """Prints the score of a trial that has ended."""
    score = "not finite" if trial.value is None else f"{metric} {trial.value:.4f}"
    console.print(f"trial {trial.number}: {score}")


@dataclass(frozen=True)
class Trials:
    """The trials of a search, which share the features of frozen backbones.

    Attributes:
        config: of all trials, before their values are set.
        workdir: of the search.
        made: what earlier trials have computed of all images, by the values that it depends on.
    """

    config: Config
    workdir: Path
    made: dict[tuple, dict] = field(default_factory=dict)

    def run(self, number: int, values: Mapping[str, Any]) -> float:
        """Trains the folds of a trial, and returns its score.

        Raises:
            ValueError: the data or the config is wrong; one line that names it.
            FloatingPointError: a loss is not finite.
            SystemExit: a signal stopped it.
        """
        config, folder = with_fields(self.config, values), self._folder(number)
        validate(config)
        key = tuple(v for path, v in sorted(values.items()) if path.endswith(FEATURES))
        if key not in self.made:
            console.print(f"trial {number}: reads all images first, so it takes longer than others")
        extensions = Extensions(made=self.made.setdefault(key, {}))
        console.quiet = True
        try:
            code = train(config, folder, extensions=extensions)
        finally:
            console.quiet = False
        if code:
            console.print(f"Stopped; run the same command to continue {self.workdir}.")
            raise SystemExit(code)
        for fold in range(config.data.folds):  # the scores stay; checkpoints would fill the disk
            shutil.rmtree(fold_folder(folder, fold) / "checkpoints", ignore_errors=True)
        score = self._scores(number, "fold_mean")
        return float("nan") if score is None else score

    def deviation(self, number: int) -> float:
        """Returns the standard deviation of a trial's score over folds."""
        return self._scores(number, "fold_deviation") or 0.0

    def _scores(self, number: int, statistic: str) -> float | None:
        path = self._folder(number) / f"eval_{OUT_OF_FOLD}.json"
        result = json.loads(path.read_text(encoding="utf-8"))
        return result[statistic][self.config.evaluation.best]

    def _folder(self, number: int) -> Path:
        return self.workdir / "trials" / f"{number:03}"


if __name__ == "__main__":
    cli.run(main, is_log=True)
