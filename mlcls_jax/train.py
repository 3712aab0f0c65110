"""Trains on a folder of images and a CSV.

python -m mlcls_jax.train --config configs/b5.py --workdir runs/b5 \\
    --config.data.csv=labels.csv --config.data.images=photos

Running the same command again continues the run. With --dry-run it checks everything and trains
nothing.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from mlcls_jax.system import early_signals

if __name__ == "__main__":
    early_signals.leave_on_signals()  # the imports below take seconds

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
from mlcls_jax.system.invocation import command
from mlcls_jax.system.signals import leave_on_sigterm, stop_on_signals
from mlcls_jax.training.context import TrainContext
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
    config = with_absolute_paths(load_config(options.config, overrides))
    cli.start_devices(options, config.distributed)
    workdir = Path(options.workdir or f"runs/{Path(options.config).stem}")
    if options.dry_run:
        from mlcls_jax.benchmark.dry_run import dry_run

        return dry_run(config, workdir)
    return train(config, workdir, threads.IMPORTED)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the remaining arguments, which are config overrides."""
    parser = cli.Parser(
        prog=command("train"),
        description="Fine-tunes an EfficientNet on a folder of images and a CSV of labels.",
        epilog="Any field of the config (see mlcls_jax/config/schema.py) can be overridden: "
        "--config.data.csv=labels.csv --config.data.images=photos "
        "'--config.phases[1].duration=20 epochs'",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="config file, such as configs/b5.py")
    parser.add_argument("--workdir", default="", help="folder of the run (default: runs/<config>)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="do not train: check data, weights and memory, estimate the training time, and draw "
        "the first training images with their labels to WORKDIR/contact_sheet.png",
    )
    parser.add_argument(
        "--recipe",
        choices=("auto", "fast", "none"),
        help="what to fill in where the config has its default: auto (default) turns on "
        "RandAugment and mixup, fast also limits fine-tuning to the last two stages, none changes "
        "nothing",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="plan epochs and image size so that training takes about this many minutes",
    )
    cli.add_process_options(parser)
    options, overrides = parser.parse_known_args(argv)
    given = {"recipe": options.recipe, "minutes": options.minutes}
    return options, overrides + [f"--config.{k}={v}" for k, v in given.items() if v is not None]


def train(config: Config, workdir: Path, began: float | None = None) -> int:
    """Trains all phases, from the latest checkpoint if one exists, and returns the exit code.

    A run that SIGTERM stops saves a checkpoint and returns 0, because machines that are about to
    be preempted send this signal.

    Args:
        config: of the run.
        workdir: folder of the run.
        began: time.perf_counter() at the start of the command; None for now.

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
        context, state = open_run(config, workdir, startup)
        inputs, services = context.inputs, context.services
        report = LiveReport(workdir, inputs.splits, config.data.max_pixels, is_first_process())
        services = replace(services, on_evaluation=report.evaluated)
        context = TrainContext(inputs, services)
        print_header(inputs, state)
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
