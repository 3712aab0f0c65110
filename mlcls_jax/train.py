"""Trains on a folder of images and a CSV.

mlcls-jax train --config lite0 --csv labels.csv --images photos --workdir runs/mine

The same command, or --workdir runs/mine alone, continues the run.  --resume-from runs/mine starts a
new run from its weights.  With --dry-run it checks everything and trains nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from mlcls_jax.system import early_signals, heap

if __name__ == "__main__":
    heap.restart_with_heap()
    early_signals.leave_on_signals()  # the imports below take seconds

from mlcls_jax.run.start import check, parse, start_of

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

from mlcls_jax import cli
from mlcls_jax.config import Config
from mlcls_jax.config.recipes import data_of_recipe
from mlcls_jax.config.schema import has_folds
from mlcls_jax.diagnosis.diagnose import lines
from mlcls_jax.report.live import LiveReport, try_report
from mlcls_jax.run.best_scores import BestEvaluation, write_best_evaluation
from mlcls_jax.run.loggers.logger import FINISHED, STOPPED
from mlcls_jax.run.workdir import LAST_SCORES, LOGGED, in_use
from mlcls_jax.system import threads
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.system.signals import leave_on_sigterm, stop_on_signals
from mlcls_jax.training.context import (
    NO_EXTENSIONS,
    Ended,
    Extensions,
    RunInputs,
    TrainContext,
)
from mlcls_jax.training.data_card import show_data
from mlcls_jax.training.folds import FoldRuns
from mlcls_jax.training.loop import run_phase
from mlcls_jax.training.out_of_fold import keep_held_out
from mlcls_jax.training.phase_transition import begin_phase
from mlcls_jax.training.run_summary import print_end, print_header
from mlcls_jax.training.setup import open_run
from mlcls_jax.training.timing import StartupTimer


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    with leave_on_sigterm():
        return start(*parse(argv))


def start(options: argparse.Namespace, overrides: list[str]) -> int:
    """Runs the command with parsed options and returns its exit code.

    Args:
        options, overrides: from `parse`.
    """
    run = start_of(options, overrides)
    cli.start_devices(options, run.config.distributed)
    if run.note:
        console.print(run.note)
    if options.dry_run:
        from mlcls_jax.benchmark.dry_run import dry_run

        return dry_run(run.config, run.workdir)
    extensions = Extensions(accept_changed_data=options.accept_changed_data)
    return train(run.config, run.workdir, threads.IMPORTED, extensions)


def train(
    config: Config,
    workdir: Path,
    began: float | None = None,
    extensions: Extensions = NO_EXTENSIONS,
) -> int:
    """Trains all phases, from the latest checkpoint if one exists, and returns the exit code.

    With data.folds, there is a run for each fold, and then one on all images if data.refit is True.
    A run that a signal stops saves a checkpoint, and its exit code is 128 plus the signal's number.

    Args:
        config: of the run.
        workdir: folder of the run.
        began: time.perf_counter() at the start of the command; None for now.
        extensions: objects of the caller.

    Raises:
        ValueError: the data, the config or the workdir is wrong; one line that names it.
        FloatingPointError: a loss is not finite.
    """
    config = replace(config, data=data_of_recipe(config.recipe, config.data))
    training = Training(config, workdir, extensions)
    began = time.perf_counter() if began is None else began
    with in_use(workdir, is_first_process()), leave_on_sigterm():
        return (training.folds(began) if has_folds(config.data) else training.run(began)).code


@dataclass(frozen=True)
class Training:
    """A training in a workdir that is reserved for it.

    Attributes: see `train`.
    """

    config: Config
    workdir: Path
    extensions: Extensions

    def folds(self, began: float) -> Ended:
        """Trains a run for each fold, and then one on all images if the config asks for it.

        Args:
            began: time.perf_counter() at the start of the command.
        """
        config = self.config
        if config.minutes:
            from mlcls_jax.benchmark.dry_run import plan_minutes

            config = plan_minutes(config, self.workdir, began)
        runs = FoldRuns(
            config, self.workdir, self.extensions, lambda *run: Training(*run).run_part()
        )
        ended = runs.run()
        if ended.finished and is_first_process():
            for line in lines(try_report(self.workdir)):
                console.print(line)
        return ended

    def run(self, began: float) -> Ended:
        """Trains the phases of one run.

        Args:
            began: time.perf_counter() at its start.
        """
        config, workdir = self.config, self.workdir
        with StartupTimer(began) as startup:
            startup.reached("imports")
            if config.minutes:
                from mlcls_jax.benchmark.dry_run import plan_minutes

                config = plan_minutes(config, workdir, began)
                startup.reached("plan")
            context, state = open_run(config, workdir, startup, self.extensions)
            inputs, services = context.inputs, context.services
            report = self._report(inputs)
            services = replace(services, on_evaluation=partial(self._evaluated, report))
            context = TrainContext(inputs, services)
            print_header(inputs, state)
            if self.extensions.pool is None or config.data.fold == 0:  # once for all folds
                show_data(inputs, own_batches=self.extensions.batches is not None)
            startup.reached("data card")
            services.timer.add_rest("start")
            with services.ended_on_errors(), stop_on_signals(services.stop):
                if int(state.step) < inputs.plan[-1].stop:
                    services.log.begin(asdict(inputs.config))
                for phase_plan in inputs.plan:
                    if int(state.step) < phase_plan.stop and not services.stop.is_set():
                        state = begin_phase(context, phase_plan, state)
                        state = run_phase(context, phase_plan, state, startup)
                services.stop.decide()  # the last evaluation may have taken long
                services.close()
                finished = int(state.step) == inputs.plan[-1].stop
                for line in lines(report.close()):
                    console.print(line)
                files = [workdir / name for name in LOGGED]
                services.log.end(FINISHED if finished else STOPPED, files, report.mistakes)
                print_end(inputs, finished)
        if finished and config.data.fold >= 0 and is_first_process():
            keep_held_out(workdir)
        return Ended(finished, services.stop.signal)

    def _report(self, inputs: RunInputs) -> LiveReport:
        """Returns the report of a run; with folds, it is written from these, and not while the run
        on all images trains."""
        data, best = self.config.data, self.config.evaluation.best
        enabled = is_first_process() and not has_folds(data)
        pixels = inputs.readers["train"].pixels
        return LiveReport(self.workdir, inputs.splits, pixels, enabled, best)

    def _evaluated(
        self, report: LiveReport, value: float, make_best: Callable[[], BestEvaluation]
    ) -> None:
        report.evaluated(value, make_best)
        if self.config.data.fold >= 0 and is_first_process():
            write_best_evaluation(self.workdir, make_best(), LAST_SCORES)

    def run_part(self) -> Ended:
        """Trains the run of one fold in its own folder, or that on all images."""
        began = time.perf_counter()
        if has_folds(self.config.data):  # its workdir is reserved
            return self.run(began)
        with in_use(self.workdir, is_first_process()):
            return self.run(began)


if __name__ == "__main__":
    cli.run(main, is_log=True)
