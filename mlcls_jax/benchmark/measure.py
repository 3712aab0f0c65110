"""Measures reading, the compiled steps, the Python loop, and training end to end."""

import gc
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mlcls_jax.benchmark import hardware
from mlcls_jax.benchmark.compiled_steps import (
    compile_program,
    empty_step,
    forward_run,
    random_batch,
    step_run,
)
from mlcls_jax.benchmark.loops import QUEUED, endless_batches, input_run, loop_run
from mlcls_jax.benchmark.results import Cost, Figures, Matmul, Place, ProgramResult
from mlcls_jax.benchmark.synthetic_images import HEIGHT, WIDTH, write_images
from mlcls_jax.benchmark.timing import Spread, TimedCall, seconds_per_step
from mlcls_jax.config import Config, schema
from mlcls_jax.config.serialization import with_absolute_paths
from mlcls_jax.data.batch import Batch
from mlcls_jax.step import programs
from mlcls_jax.step.groups import trainable_paths
from mlcls_jax.step.network import variables_shape
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import compute_dtype, is_first_process
from mlcls_jax.system.heap import keeps_heap
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.setup import open_run

FORWARD, MATMUL = "forward", "matmul"

_TRACED = 3  # steps in a trace


@dataclass(frozen=True)
class Plan:
    """Parts to measure, and for how long.

    Attributes:
        what: one of options.benchmark.WHAT.
        seconds, repeats: see timing.seconds_per_step.
        trace: folder for a profiler trace of a few more steps, or None.
    """

    what: str
    seconds: float
    repeats: int
    trace: Path | None

    def time(self, runs: dict[str, TimedCall]) -> dict[str, Spread]:
        """Returns the seconds per step of each run; see timing.seconds_per_step."""
        # As in training: garbage collection never scans the objects that exist by now again.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return seconds_per_step(runs, self.seconds, self.repeats)

    def trace_run(self, run: TimedCall) -> None:
        """Takes a few steps under the profiler, if the plan has a trace."""
        if self.trace and is_first_process():
            with jax.profiler.trace(str(self.trace)):
                run(_TRACED)
        elif self.trace:
            run(_TRACED)


@dataclass(frozen=True)
class _Phase:
    """A phase with its compiled step and its result."""

    phase_plan: PlannedPhase
    program: programs.Program
    function: Any  # compiled
    result: ProgramResult


def measure(config: Config, plan: Plan, folder: Path) -> Figures:
    """Measures the parts that the plan names.

    Args:
        config: of the run. Pretrained weights are not loaded, because random weights take the same
            time.
        plan: parts to measure.
        folder: for the files of a run, and for synthetic images if data.csv is empty.

    Raises:
        ValueError: the CSV, the images or the config are wrong, or a step needs too much memory.
        jax.errors.JaxRuntimeError: the memory of a device is too small.
    """
    config, images = _prepared(config, folder)
    context, state = open_run(config, folder / "run")
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    del state
    figures = _empty(context, plan, images)
    try:
        if plan.what in ("input", "all"):
            _measure_input(context, plan, figures)
        if plan.what != "input":
            _measure_programs(context, plan, figures, variables)
    finally:
        context.services.close()
    figures.peak_rss, figures.device_peak = hardware.peak_rss(), hardware.device_peak()
    return figures


def _prepared(config: Config, folder: Path) -> tuple[Config, str]:
    """Returns the config with random weights and with images, and the origin of the images."""
    config = with_absolute_paths(config)
    config.model.weights = ""
    if config.data.csv or config.data.images:
        return config, config.data.csv
    synthetic = folder / "images"
    synthetic.mkdir(exist_ok=True)
    console.print("data.csv is empty, so the benchmark uses synthetic images.")
    config.data.csv, config.data.images = write_images(synthetic)
    return config, f"synthetic JPEGs of {WIDTH} x {HEIGHT}"


def _empty(context: TrainContext, plan: Plan, images: str) -> Figures:
    config, table = context.inputs.config, context.inputs.splits["train"]
    place = Place(
        backend=jax.default_backend(),
        kind=jax.devices()[0].device_kind,
        devices=jax.device_count(),
        processes=jax.process_count(),
        keeps_heap=keeps_heap(),
    )
    return Figures(
        config=config,
        what=plan.what,
        place=place,
        images=f"{len(table)} of {images}",
        classes=len(table.classes),
        image_size=schema.image_size(config.model),
        compute_dtype=str(compute_dtype(config.model.compute_dtype)),
    )


def _measure_input(context: TrainContext, plan: Plan, figures: Figures) -> None:
    console.print("measuring the input")
    run = input_run(context)
    run(QUEUED)
    figures.input = plan.time({"input": run})["input"]
    if plan.what == "input":
        plan.trace_run(run)


def _measure_programs(context: TrainContext, plan: Plan, figures: Figures, variables: dict) -> None:
    forward, phases = _compile(context, figures, variables)
    batch = random_batch(context)
    if plan.what in ("step", "all"):
        runs = _step_runs(context, forward, phases, variables, batch)
        _measure_steps(context, plan, figures, runs)
        _measure_loop(context, plan, phases, variables, batch)
    if plan.what in ("train", "all"):
        _measure_train(context, plan, phases, variables)


def _compile(context: TrainContext, figures: Figures, variables: dict) -> tuple[Any, list[_Phase]]:
    """Compiles evaluation and the step of each phase, and adds their costs to the figures."""
    images = figures.batch_size // figures.place.devices
    inputs, weights = context.inputs, context.inputs.pretrained_config
    shapes = variables_shape(inputs.step.network, inputs.mesh)
    program = programs.forward_program(
        inputs.step.network, weights, figures.batch_size, inputs.mesh, shapes
    )
    forward, cost = _compile_one(FORWARD, program, images)
    figures.programs.append(ProgramResult(FORWARD, trainable=0, share=0.0, cost=cost))
    leaves, phases = flatten(variables["params"]), []
    for phase_plan, share in zip(inputs.plan, shares(inputs.plan), strict=True):
        program = programs.step_program(inputs.step, weights, phase_plan, inputs.mesh, shapes)
        function, cost = _compile_one(phase_plan.phase.name, program, images)
        trainable = trainable_paths(variables["params"], phase_plan.phase)
        result = ProgramResult(
            phase_plan.phase.name,
            trainable=sum(leaves[path].size for path in trainable),
            share=share,
            cost=cost,
        )
        if phase_plan.phase.cached_views:
            console.print(
                f"{result.name}: measured on images; training reads them once and then uses cached "
                "features"
            )
        figures.programs.append(result)
        phases.append(_Phase(phase_plan, program, function, result))
    return forward, phases


def shares(plan: Sequence[PlannedPhase]) -> list[float]:
    """Returns the share of each phase in the steps of a run that are on images.

    If all phases are on cached features, the shares are of all steps.

    Args:
        plan: phases of the run.
    """
    lengths = [phase_plan.stop - phase_plan.start for phase_plan in plan]
    on_images = [
        length * (not phase_plan.phase.cached_views)
        for length, phase_plan in zip(lengths, plan, strict=True)
    ]
    weights = on_images if any(on_images) else lengths
    return [weight / sum(weights) for weight in weights]


def _compile_one(name: str, program: programs.Program, images: int) -> tuple[Any, Cost]:
    function, cost = compile_program(program, images)
    origin = "read from the cache" if cost.cached else "compiled"
    console.print(f"{name}: {origin} in {cost.seconds:.1f} s")
    return function, cost


def _step_runs(
    context: TrainContext, forward: Any, phases: list[_Phase], variables: dict, batch: Batch
) -> list[TimedCall]:
    """Returns functions to time, in the order of Figures.programs."""
    steps = [
        step_run(context, phase.phase_plan, phase.function, variables, batch) for phase in phases
    ]
    return [forward_run(forward, variables, batch), *steps]


def _measure_steps(
    context: TrainContext, plan: Plan, figures: Figures, runs: list[TimedCall]
) -> None:
    """Measures evaluation, the steps of the phases and the matrix product, in turn."""
    console.print("measuring the steps")
    # Indices as names, because a phase may have any name.
    named = {str(index): run for index, run in enumerate(runs)}
    dtype = compute_dtype(context.inputs.config.model.compute_dtype)
    times = plan.time({MATMUL: hardware.matmul_run(context.inputs.mesh, dtype), **named})
    figures.matmul = Matmul(hardware.matmul_size(), times[MATMUL].rate(hardware.matmul_flops()))
    for index, program in enumerate(figures.programs):
        program.step = times[str(index)]
    if plan.what == "step":
        plan.trace_run(runs[-1])


def _measure_loop(
    context: TrainContext, plan: Plan, phases: list[_Phase], variables: dict, batch: Batch
) -> None:
    """Measures the training loop with an empty step."""
    console.print("measuring the loop with an empty step")
    for phase in phases:
        step = empty_step(phase.program)
        run = loop_run(context, phase.phase_plan, step, variables, itertools.repeat(batch))
        phase.result.host = plan.time({"host": run})["host"]


def _measure_train(
    context: TrainContext, plan: Plan, phases: list[_Phase], variables: dict
) -> None:
    """Measures training end to end, phase after phase."""
    for phase in phases:
        console.print(f"{phase.result.name}: measuring end to end")
        batches = endless_batches(context)
        run = loop_run(context, phase.phase_plan, phase.function, variables, batches)
        run(QUEUED)
        phase.result.train = plan.time({"train": run})["train"]
        if phase is phases[-1]:
            plan.trace_run(run)
