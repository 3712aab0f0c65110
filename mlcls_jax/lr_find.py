"""Finds learning rates for a phase: trains while the rate grows, and looks at the loss.

python -m mlcls_jax.lr_find --config configs/b5.py --phase finetune \\
    --config.data.csv=labels.csv --config.data.images=photos

Writes an image of the curve, and nothing else: no run begins, and none is changed.
"""

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from mlcls_jax import cli
from mlcls_jax.config import Phase
from mlcls_jax.config.loading import load_config
from mlcls_jax.config.serialization import with_absolute_paths
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

ROWS, WIDTH = 20, 40  # of the table


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    options, overrides = parse(argv)
    config = with_absolute_paths(load_config(options.config, overrides))
    cli.start_devices(options, config)
    if devices.is_first_process():  # the others write nothing
        cli.check_folder("out", options.out)
    config.data.cache = "none"  # a range test reads too little to make one
    with tempfile.TemporaryDirectory(prefix="mlcls_jax_") as folder:
        context, state = open_run(config, Path(folder) / "run")
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        try:
            if options.workdir:
                variables = _trained(Path(options.workdir), context, variables)
            phase_plan = _planned(context, options.phase, options.steps)
            test = find(context, phase_plan, variables, options.low, options.high)
        finally:
            context.services.close()
    if not test.rates:
        raise ValueError(f"the loss is not finite at {options.low:g}; lower --low, or the dtype")
    if devices.is_first_process():
        _report(test, phase_plan.phase, config.phases, Path(options.out))
    return 0


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, checked, and the config overrides among the arguments."""
    parser = cli.Parser(
        prog="python -m mlcls_jax.lr_find",
        description="A learning-rate range test (arXiv:1506.01186): takes steps of a phase while "
        "the rate grows from --low to --high, and suggests the one where the loss falls fastest. "
        "Several groups keep the ratio of their rates; --low and --high are of the highest one.",
        epilog="Every field of the config (mlcls_jax/config/schema.py) can be set: "
        "--config.data.csv=labels.csv --config.data.images=photos",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="config file, such as configs/b5.py")
    parser.add_argument("--phase", default="", help="its name (default: the first)")
    parser.add_argument(
        "--workdir",
        default="",
        help="of a run of this config, whose best checkpoint to start from, such as for a second "
        "phase (default: as a run starts)",
    )
    parser.add_argument("--out", default="lr_find.png", help="image (default lr_find.png)")
    parser.add_argument("--steps", type=int, default=100, help="at most (default 100)")
    parser.add_argument("--low", type=float, default=1e-7, help="first rate (default 1e-7)")
    parser.add_argument("--high", type=float, default=10.0, help="last rate (default 10)")
    cli.add_process_options(parser)
    options, overrides = parser.parse_known_args(argv)
    if options.steps < 20 or not 0 < options.low < options.high < math.inf:
        parser.error("--steps must be at least 20, and 0 < --low < --high")
    if not options.out.endswith(".png"):
        parser.error(f"--out {options.out}: it must end with .png")
    return options, overrides


def find(
    context: TrainContext, phase_plan: PlannedPhase, variables: dict, low: float, high: float
) -> LrFinder:
    """Takes the steps of a phase with growing rates, until the loss diverges or they are done.

    Args:
        context: of the config.
        phase_plan: the phase, as long as the test; its step is that of training but for the rate.
        variables: to start from, on every device; the step takes their memory.
        low, high: the first and the last rate, of the group with the highest one.
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
        for number, batch in enumerate(batches):
            state, metrics = step(state, batch)
            loss = float(metrics["loss"])
            if math.isfinite(loss):
                test.add(float(np.asarray(rate(number))), loss)
            if not math.isfinite(loss) or test.has_diverged:
                break
            meter.advance()
            refresh()
    return test


def _planned(context: TrainContext, name: str, steps: int) -> PlannedPhase:
    """The phase, as long as the test and on images, whether or not it would cache features."""
    named = {phase_plan.phase.name: phase_plan for phase_plan in context.inputs.plan}
    if name and name not in named:
        raise ValueError(f"--phase {name}: the config has {', '.join(named)}")
    phase_plan = named[name] if name else context.inputs.plan[0]
    phase = dataclasses.replace(phase_plan.phase, cached_views=0)
    return PlannedPhase(phase, 0, steps, 0, (steps,))


def _trained(workdir: Path, context: TrainContext, variables: dict) -> dict:
    """The variables of a run's best checkpoint; ValueError unless they are of the same network, of
    the same weights and for the same classes as these."""
    run, classes = load_trained_model(workdir, "best"), context.inputs.splits["train"].classes
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (run.variables, variables)]
    if shapes[0] != shapes[1] or (run.pretrained_config, run.classes) != (
        context.inputs.pretrained_config,
        classes,
    ):
        raise ValueError(
            f"--workdir {workdir} holds a run of another network, of other weights or for other "
            "classes than the config's; give that run's config"
        )
    return run.variables


def _report(test: LrFinder, phase: Phase, phases: Sequence[Phase], out: Path) -> None:
    print_table(phase.name, ["learning rate", "smoothed loss", ""], rows(test, ROWS, WIDTH))
    draw(test, phase.name, out)
    end = "diverged" if test.has_diverged or len(test.rates) < test.steps else "did not diverge"
    console.print(f"The loss {end} by {test.rates[-1]:.1e}; the curve is in {out}.")
    if test.suggestion is None:
        print_warning(
            "the loss fell nowhere by more than chance, so there is no rate to suggest; look at "
            "the curve, or take more --steps or a larger data.batch_size"
        )
        return
    highest = max(group.learning_rate for group in phase.groups)
    names = [other.name for other in phases]
    console.print("It fell fastest at the rates of these overrides:")
    for j, group in enumerate(phase.groups):
        rate = rounded(test.suggestion * group.learning_rate / highest)
        field = f"--config.phases[{names.index(phase.name)}].groups[{j}].learning_rate"
        console.print(f"  '{field}={rate:g}'  # {group.pattern}, now {group.learning_rate:g}")


def draw(test: LrFinder, title: str, out: Path) -> None:
    """Writes the curve as a PNG; ValueError where that fails."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", xlabel="learning rate (highest group)", ylabel="loss", title=title
    )
    axes.plot(test.rates, test.losses, color="0.8", label="of each step")
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
