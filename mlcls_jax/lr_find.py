"""Suggests learning rates for a phase, from the loss while the rate rises.

mlcls-jax lr-find --workdir runs/b5 --phase finetune
mlcls-jax lr-find --config b5 --csv labels.csv --images photos

It writes an image of the curve and nothing else: no run is started, and no run is changed.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlcls_jax.system import heap

if __name__ == "__main__":
    heap.restart_with_heap()

from mlcls_jax.options.lr_find import check, check_phase, config_of, file_of, parse
from mlcls_jax.options.shared import check_folder

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

from matplotlib.figure import Figure

from mlcls_jax import cli
from mlcls_jax.config import Phase
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.step.lr_finder import LrFinder, rounded, rows
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.system import devices
from mlcls_jax.system.console import console, print_table, print_warning
from mlcls_jax.system.files import replacing
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.lr_range import run_lr_test, steps_of_test, variables_at_start
from mlcls_jax.training.setup import open_run

ROWS, WIDTH = 20, 40  # of the printed table


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options, overrides = parse(argv)
    config = config_of(options, overrides)
    cli.start_devices(options, config.distributed)
    out, workdir = file_of(options), open_workdir(options.workdir) if options.workdir else None
    if devices.is_first_process():
        check_folder("out", str(out))
    config.data.cache = "none"  # a range test reads too few images to fill a cache
    with tempfile.TemporaryDirectory(prefix="mlcls_jax_") as folder:
        context, state = open_run(config, Path(folder) / "run")
        try:
            phase_plan = _chosen(context, options.phase)
            variables = variables_at_start(context, phase_plan, state, workdir)
            steps = options.steps or steps_of_test(phase_plan)
            rates = options.low, options.high
            test = run_lr_test(context, phase_plan, variables, rates, steps)
        finally:
            context.services.close()
    if not test.rates:
        raise ValueError(
            f"the loss is not finite at a learning rate of {options.low:g}; lower --low, or set "
            "--config.model.compute_dtype=float32"
        )
    if devices.is_first_process():
        _report(test, phase_plan.phase, config.phases, out)
    return 0


def _chosen(context: TrainContext, name: str) -> PlannedPhase:
    """Returns the phase of a name; the first without one."""
    named = {phase_plan.phase.name: phase_plan for phase_plan in context.inputs.plan}
    if name:
        check_phase(name, named)
    return named[name] if name else context.inputs.plan[0]


def _report(test: LrFinder, phase: Phase, phases: Sequence[Phase], out: Path) -> None:
    """Prints the curve and the suggested overrides, and draws the curve."""
    print_table(phase.name, ["learning rate", "smoothed loss", ""], rows(test, ROWS, WIDTH))
    draw(test, phase.name, out)
    end = "diverged" if test.has_diverged or len(test.rates) < test.steps else "did not diverge"
    console.print(f"The loss {end} up to a rate of {test.rates[-1]:.1e}. Curve: {out}")
    if test.suggestion is None:
        print_warning(
            "no clear minimum: the loss never fell by more than chance; look at the curve, or use "
            "more --steps or a larger data.batch_size"
        )
        return
    if not test.has_risen:
        print_warning(
            f"no clear minimum: the loss still falls at {test.rates[-1]:.1e}, so the rates below "
            "are uncertain; raise --high"
        )
    highest = max(group.learning_rate for group in phase.groups)
    index = [other.name for other in phases].index(phase.name)
    console.print("The loss fell fastest at these rates; use them with:")
    for j, group in enumerate(phase.groups):
        rate = rounded(test.suggestion * group.learning_rate / highest)
        field = f"--config.phases[{index}].groups[{j}].learning_rate"
        console.print(f"  '{field}={rate:g}'  # {group.pattern}, now {group.learning_rate:g}")


def draw(test: LrFinder, title: str, out: Path) -> None:
    """Writes the curve as a PNG.

    Raises:
        ValueError: the file cannot be written.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", xlabel="learning rate (highest group)", ylabel="loss", title=title
    )
    axes.plot(test.rates, test.losses, color="0.8", label="each step")
    axes.plot(test.rates, test.smoothed, label="smoothed")
    if test.suggestion is not None:
        axes.axvline(test.suggestion, linestyle="--", color="C1", label="steepest descent")
    axes.legend()
    try:
        with replacing(out) as partial_name:
            figure.savefig(partial_name, format="png", dpi=120)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    cli.run(main)
