"""Trials of a search: asked from Optuna, run one after the other, and kept in a database."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna  # pyright: ignore[reportMissingImports]
from optuna.trial import FrozenTrial, TrialState  # pyright: ignore[reportMissingImports]

from mlcls_jax.options.tune import RANDOM

DATABASE, STUDY = "tune.db", "tune"
_SEARCH = "search"  # attribute of the study: what its trials have in common
_DONE = (TrialState.COMPLETE, TrialState.FAIL)


# Runs a trial: (its number, {path: value}) -> its score, NaN for none.
RunTrial = Callable[[int, Mapping[str, Any]], float]


@dataclass(frozen=True)
class Search:
    """A search in a folder.

    Attributes:
        workdir: the folder.
        space: distribution of each field.
        first: the values of the first trial.
        maximize: whether a larger score is better.
        sampler: "tpe" or "random".
        seed: of the sampler.
        about: what the trials have in common, such as the config; a search continues only with it.
    """

    workdir: Path
    space: Mapping[str, Any]
    first: Mapping[str, Any]
    maximize: bool
    sampler: str
    seed: int
    about: Mapping[str, Any]

    def run(self, trials: int, run_trial: RunTrial, tell: Callable[[FrozenTrial], None]) -> None:
        """Runs trials until there are as many as wanted; those of an earlier call count.

        A trial that was stopped is continued first, with the values that it had.

        Args:
            trials: their number.
            run_trial: runs one.
            tell: is called with each trial that has ended.

        Raises:
            ValueError: the folder has a search with another config or other data.
        """
        study = self._study()
        while True:
            every = study.get_trials(deepcopy=False)
            left = [one for one in every if one.state == TrialState.RUNNING]
            done = sum(one.state in _DONE for one in every)
            if not left and done >= trials:
                return
            if left:
                number, values = left[0].number, left[0].params
            else:
                trial = study.ask(dict(self.space))
                number, values = trial.number, trial.params
            if set(values) != set(self.space):  # the process ended while values were chosen
                study.tell(number, state=TrialState.FAIL)
                continue
            try:
                score = run_trial(number, values)
            except FloatingPointError:  # the loss is not finite with these values
                score = math.nan
            if math.isnan(score):
                study.tell(number, state=TrialState.FAIL)
            else:
                study.tell(number, score)
            tell(study.get_trials(deepcopy=False)[number])

    def trials(self) -> list[FrozenTrial]:
        """Returns the trials that have ended with a score, the best first."""
        ended = self._study().get_trials(states=(TrialState.COMPLETE,))
        sign = -1 if self.maximize else 1
        return sorted(ended, key=lambda one: sign * (one.value or 0.0))

    def _study(self) -> Any:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                storage=f"sqlite:///{self.workdir / DATABASE}",
                study_name=STUDY,
                direction="maximize" if self.maximize else "minimize",
                load_if_exists=True,
            )
        count = len(study.get_trials(deepcopy=False))
        kind = (
            optuna.samplers.RandomSampler if self.sampler == RANDOM else optuna.samplers.TPESampler
        )
        study.sampler = kind(seed=self.seed + count)
        about = {**self.about, "sampler": self.sampler}
        if not count:
            study.set_user_attr(_SEARCH, about)
            study.enqueue_trial(dict(self.first))
        else:
            _check_same(self.workdir, study.user_attrs.get(_SEARCH, {}), about)
        return study


def _check_same(workdir: Path, stored: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Raises ValueError if a search was begun with other settings; names the first."""
    for name in sorted({*stored, *about}):
        if stored.get(name) != about.get(name):
            raise ValueError(
                f"{workdir} has a search with {name}={stored.get(name)!r}, not "
                f"{about.get(name)!r}; use the same command to continue it, or another --workdir"
            )
