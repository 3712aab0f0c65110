"""Trains on a folder of images and a CSV.

mlcls-jax train --config lite0 --csv labels.csv --images photos --workdir runs/mine

The same command, or --workdir runs/mine alone, continues the run.  --resume-from runs/mine starts a
new run from its weights.  With --dry-run it checks everything and trains nothing.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from mlcls_jax.system import early_signals

if __name__ == "__main__":
    early_signals.leave_on_signals()  # the imports below take seconds

from mlcls_jax.run.start import check, parse, start_of

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

from mlcls_jax import cli
from mlcls_jax.config import Config
from mlcls_jax.diagnosis.diagnose import lines
from mlcls_jax.report.live import LiveReport
from mlcls_jax.run.workdir import in_use
from mlcls_jax.system import threads
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.system.signals import leave_on_sigterm, stop_on_signals
from mlcls_jax.training.context import NO_EXTENSIONS, Extensions, TrainContext
from mlcls_jax.training.data_card import show_data
from mlcls_jax.training.loop import run_phase
from mlcls_jax.training.phase_transition import begin_phase
from mlcls_jax.training.setup import open_run, print_end, print_header
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
    return train(run.config, run.workdir, threads.IMPORTED)


def train(
    config: Config,
    workdir: Path,
    began: float | None = None,
    extensions: Extensions = NO_EXTENSIONS,
) -> int:
    """Trains all phases, from the latest checkpoint if one exists, and returns the exit code.

    A run that SIGTERM stops saves a checkpoint and returns 0, because machines that are about to
    be preempted send this signal.

    Args:
        config: of the run.
        workdir: folder of the run.
        began: time.perf_counter() at the start of the command; None for now.
        extensions: objects of the caller.

    Raises:
        ValueError: the data, the config or the workdir is wrong; one line that names it.
        FloatingPointError: a loss is not finite.
    """
    began = time.perf_counter() if began is None else began
    with in_use(workdir), leave_on_sigterm(), StartupTimer(began) as startup:
        startup.reached("imports")
        if config.minutes:
            from mlcls_jax.benchmark.dry_run import plan_minutes

            config = plan_minutes(config, workdir, began)
            startup.reached("plan")
        context, state = open_run(config, workdir, startup, extensions)
        inputs, services = context.inputs, context.services
        best = config.evaluation.best
        report = LiveReport(
            workdir, inputs.splits, config.data.max_pixels, is_first_process(), best
        )
        services = replace(services, on_evaluation=report.evaluated)
        context = TrainContext(inputs, services)
        print_header(inputs, state)
        show_data(inputs, own_batches=extensions.batches is not None)
        startup.reached("data card")
        services.timer.add_rest("start")
        with stop_on_signals(services.stop):
            for phase_plan in inputs.plan:
                if int(state.step) < phase_plan.stop and not services.stop.is_set():
                    state = begin_phase(context, phase_plan, state)
                    state = run_phase(context, phase_plan, state, startup)
            services.close()
            finished = int(state.step) == inputs.plan[-1].stop
            for line in lines(report.close()):
                console.print(line)
            print_end(inputs, finished)
    return cli.INTERRUPTED if services.stop.by_terminal and not finished else 0


if __name__ == "__main__":
    cli.run(main)
