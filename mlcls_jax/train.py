"""Trains on a folder of images and a CSV.

python -m mlcls_jax.train --config configs/b5.py --workdir runs/b5 \\
    --config.data.csv=labels.csv --config.data.images=photos

The same command again continues the run; with --dry-run it only says what would happen.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from mlcls_jax.system import early_signals

if __name__ == "__main__":
    early_signals.leave_on_signals()  # what follows takes seconds

from mlcls_jax import cli
from mlcls_jax.config import Config
from mlcls_jax.config.loading import load_config
from mlcls_jax.config.serialization import with_absolute_paths
from mlcls_jax.diagnosis.diagnose import lines
from mlcls_jax.report.live import LiveReport
from mlcls_jax.run.workdir import in_use
from mlcls_jax.system import threads
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.system.signals import leave_on_sigterm, stop_on_signals
from mlcls_jax.training.loop import run_phase
from mlcls_jax.training.phase_transition import begin_phase
from mlcls_jax.training.setup import open_run, print_end, print_header
from mlcls_jax.training.timing import StartupTimer


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    with leave_on_sigterm():
        return start(*parse(argv))


def start(options: argparse.Namespace, overrides: list[str]) -> int:
    """With what `parse` gives; returns the exit code."""
    config = with_absolute_paths(load_config(options.config, overrides))
    cli.start_devices(options, config)
    workdir = Path(options.workdir or f"runs/{Path(options.config).stem}")
    if options.dry_run:
        from mlcls_jax.benchmark.dry_run import dry_run

        return dry_run(config, workdir)
    return train(config, workdir, threads.IMPORTED)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the config overrides among the arguments."""
    parser = cli.Parser(
        prog="python -m mlcls_jax.train",
        description="Fine-tunes an EfficientNet on a folder of images and a CSV of labels.",
        epilog="Every field of the config (mlcls_jax/config/schema.py) can be set: "
        "--config.data.batch_size=64 --config.phases[1].duration='20 epochs'",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="config file, such as configs/b5.py")
    parser.add_argument("--workdir", default="", help="folder of the run (default runs/<config>)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing: check data, weights and memory, estimate the time, and draw the first "
        "training images with their labels in WORKDIR/contact_sheet.png",
    )
    cli.add_process_options(parser)
    return parser.parse_known_args(argv)


def train(config: Config, workdir: Path, began: float | None = None) -> int:
    """Runs all phases, from the latest checkpoint on where there is one; returns the exit code.

    A run that SIGTERM stopped, as a machine that is about to be taken away does, has ended well.

    Args:
        config: of the run.
        workdir: its folder.
        began: time.perf_counter() at the start of it all; None: now.

    Raises:
        ValueError: anything about the user's data, config or workdir; one line that names it.
        FloatingPointError: a loss that is not finite.
    """
    began = time.perf_counter() if began is None else began
    with in_use(workdir), StartupTimer(began) as first_step, leave_on_sigterm():
        first_step.reached("imports")
        context, state = open_run(config, workdir, first_step)
        report = LiveReport(workdir, context.splits, config.data.max_pixels, is_first_process())
        context = replace(context, on_evaluation=report.evaluated)
        print_header(context, state)
        context.timer.so_far("start")
        with stop_on_signals(context.stop):
            for phase_plan in context.plan:
                if int(state.step) < phase_plan.stop and not context.stop.is_set():
                    state = begin_phase(context, phase_plan, state)
                    state = run_phase(context, phase_plan, state, first_step)
            context.checkpoints.close()
            context.log.close()
            finished = int(state.step) == context.plan[-1].stop
            for line in lines(report.close()):
                console.print(line)
            print_end(context, finished)
    return cli.INTERRUPTED if context.stop.by_terminal and not finished else 0


if __name__ == "__main__":
    cli.run(main)
