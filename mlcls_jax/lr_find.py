"""Suggests learning rates for a phase, from the loss while the rate rises.

mlcls-jax lr-find --config b5 --phase finetune \\
    --config.data.csv=labels.csv --config.data.images=photos

It writes an image of the curve and nothing else: no run is started, and no run is changed.
"""

import dataclasses
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlcls_jax.options.lr_find import check, check_phase, config_of, parse
from mlcls_jax.options.shared import check_folder

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

import jax
import numpy as np
from matplotlib.figure import Figure

from mlcls_jax import cli
from mlcls_jax.config import Phase
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.step.lr_finder import LrFinder, lr_finder_schedule, rounded, rows
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.programs import step_program
from mlcls_jax.system import devices
from mlcls_jax.system.console import Meter, console, print_table, print_warning, progress_bar
from mlcls_jax.system.files import replacing
from mlcls_jax.training.compile_ahead import batches_on_devices
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.phase_transition import new_state
from mlcls_jax.training.setup import open_run

ROWS, WIDTH = 20, 40  # of the printed table


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options, overrides = parse(argv)
    config = config_of(options, overrides)
    cli.start_devices(options, config.distributed)
    if devices.is_first_process():
        check_folder("out", options.out)
    config.data.cache = "none"  # a range test reads too few images to fill a cache
    with tempfile.TemporaryDirectory(prefix="mlcls_jax_") as folder:
        context, state = open_run(config, Path(folder) / "run")
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        try:
            if options.workdir:
                variables = _trained_variables(open_workdir(options.workdir), context, variables)
            phase_plan = _plan_test(context, options.phase, options.steps)
            test = find(context, phase_plan, variables, options.low, options.high)
        finally:
            context.services.close()
    if not test.rates:
        raise ValueError(
            f"the loss is not finite at a learning rate of {options.low:g}; lower --low, or set "
            "--config.model.compute_dtype=float32"
        )
    if devices.is_first_process():
        _report(test, phase_plan.phase, config.phases, Path(options.out))
    return 0


def find(
    context: TrainContext, phase_plan: PlannedPhase, variables: dict, low: float, high: float
) -> LrFinder:
    """Trains a phase with rising learning rates, until the loss diverges or the phase ends.

    Args:
        context: of the run.
        phase_plan: the phase, as long as the test.
        variables: to start from, on every device; their buffers are donated.
        low, high: the first and the last rate, for the group with the highest rate.

    Returns:
        The rates and losses of the steps whose loss is finite.
    """
    inputs, mesh, steps = context.inputs, context.inputs.mesh, phase_plan.stop
    highest = max(group.learning_rate for group in phase_plan.phase.groups)
    schedule = lr_finder_schedule(low, high, highest)
    rate = schedule(phase_plan.phase, highest, steps, 0)
    program = step_program(
        inputs.step, inputs.pretrained_config, phase_plan, mesh, schedule=schedule
    )
    step = program.lower().compile()  # it can never recompile
    state = new_state(variables, phase_plan, mesh)
    train, reader = inputs.splits["train"], inputs.readers["train"]
    batches = batches_on_devices(inputs.step, train, mesh, 0, steps, reader)
    test, meter = LrFinder(steps), Meter(steps, inputs.step.batch_size)
    with progress_bar(phase_plan.phase.name, meter, devices.is_first_process()) as refresh:
        for index, batch in enumerate(batches):
            state, metrics = step(state, batch)
            loss = float(metrics["loss"])
            if math.isfinite(loss):
                test.add(float(np.asarray(rate(index))), loss)
            if not math.isfinite(loss) or test.has_diverged:
                break
            meter.advance()
            refresh()
    return test


def _plan_test(context: TrainContext, name: str, steps: int) -> PlannedPhase:
    """Returns the phase, as long as the test and without cached features."""
    named = {phase_plan.phase.name: phase_plan for phase_plan in context.inputs.plan}
    if name:
        check_phase(name, named)
    phase_plan = named[name] if name else context.inputs.plan[0]
    phase = dataclasses.replace(phase_plan.phase, cached_views=0)
    return PlannedPhase(phase, 0, steps, 0, (steps,))


def _trained_variables(workdir: Path, context: TrainContext, variables: dict) -> dict:
    """Returns the variables of a run's best checkpoint.

    Raises:
        ValueError: the run has another network, other pretrained weights or other classes.
    """
    run, classes = load_trained_model(workdir, "best"), context.inputs.splits["train"].classes
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (run.variables, variables)]
    if shapes[0] != shapes[1] or (run.pretrained_config, run.classes) != (
        context.inputs.pretrained_config,
        classes,
    ):
        raise ValueError(
            f"--workdir {workdir} has another network, other pretrained weights or other classes "
            "than --config; use the config of that run"
        )
    return run.variables


def _report(test: LrFinder, phase: Phase, phases: Sequence[Phase], out: Path) -> None:
    """Prints the curve and the suggested overrides, and draws the curve."""
    print_table(phase.name, ["learning rate", "smoothed loss", ""], rows(test, ROWS, WIDTH))
    draw(test, phase.name, out)
    end = "diverged" if test.has_diverged or len(test.rates) < test.steps else "did not diverge"
    console.print(f"The loss {end} up to a rate of {test.rates[-1]:.1e}. Curve: {out}")
    if test.suggestion is None:
        print_warning(
            "the loss never fell by more than chance, so there is no rate to suggest; look at the "
            "curve, or use more --steps or a larger data.batch_size"
        )
        return
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
