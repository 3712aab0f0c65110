"""Measures the input, the steps, the loop and all of them together, as a run would start them."""

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
    forward_run,
    made_up_batch,
    step_of_nothing,
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
from mlcls_jax.step.network import variables_shape
from mlcls_jax.step.optimizer import trainable_paths
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import compute_dtype, is_first_process, keeps_heap
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.setup import open_run

WHAT = ("input", "step", "train", "all")
FORWARD, MATMUL = "forward", "matmul"

_TRACED = 3  # steps in a trace


@dataclass(frozen=True)
class Plan:
    """What to measure, and for how long.

    what: one of WHAT.  seconds, repeats: see timing.seconds_per_step.
    trace: a folder for a trace of a few more steps, or None.
    """

    what: str
    seconds: float
    repeats: int
    trace: Path | None

    def time(self, runs: dict[str, TimedCall]) -> dict[str, Spread]:
        """See timing.seconds_per_step."""
        # As training does: garbage collection never looks through what is there by now again.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return seconds_per_step(runs, self.seconds, self.repeats)

    def trace_run(self, run: TimedCall) -> None:
        """A few steps under the profiler, where a trace is wanted."""
        if self.trace and is_first_process():
            with jax.profiler.trace(str(self.trace)):
                run(_TRACED)
        elif self.trace:
            run(_TRACED)


@dataclass(frozen=True)
class _Phase:
    """A phase with its compiled step and where its figures go."""

    phase_plan: PlannedPhase
    program: programs.Program
    function: Any  # compiled
    figures: ProgramResult


def measure(config: Config, plan: Plan, folder: Path) -> Figures:
    """Measures what the plan says.

    Args:
        config: of the run; pretrained weights are not loaded, as random ones take as long.
        folder: for a run's files, and for made-up images where data.csv is empty.

    Raises:
        ValueError: about the user's CSV, images or config; or a step that does not fit.
        jax.errors.JaxRuntimeError: a device's memory is too small.
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
    """The config with random weights and with images, and in words where these come from."""
    config = with_absolute_paths(config)
    config.model.weights = ""
    if config.data.csv or config.data.images:
        return config, config.data.csv
    made_up = folder / "images"
    made_up.mkdir(exist_ok=True)
    console.print("data.csv is empty: made-up images take its place.")
    config.data.csv, config.data.images = write_images(made_up)
    return config, f"made-up JPEGs of {WIDTH} x {HEIGHT}"


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
    console.print("input: measuring")
    run = input_run(context)
    run(QUEUED)
    figures.input = plan.time({"input": run})["input"]
    if plan.what == "input":
        plan.trace_run(run)


def _measure_programs(context: TrainContext, plan: Plan, figures: Figures, variables: dict) -> None:
    forward, phases = _compile(context, figures, variables)
    batch = made_up_batch(context)
    if plan.what in ("step", "all"):
        runs = _step_runs(context, forward, phases, variables, batch)
        _measure_steps(context, plan, figures, runs)
        _measure_loop(context, plan, phases, variables, batch)
    if plan.what in ("train", "all"):
        _measure_train(context, plan, phases, variables)


def _compile(context: TrainContext, figures: Figures, variables: dict) -> tuple[Any, list[_Phase]]:
    """Evaluation and each phase's step; their costs go into the figures."""
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
        own = ProgramResult(
            phase_plan.phase.name,
            trainable=sum(leaves[path].size for path in trainable),
            share=share,
            cost=cost,
        )
        if phase_plan.phase.cached_views:
            console.print(
                f"{own.name}: measured on images, which it needs once; a run then trains it on "
                "cached features"
            )
        figures.programs.append(own)
        phases.append(_Phase(phase_plan, program, function, own))
    return forward, phases


def shares(plan: Sequence[PlannedPhase]) -> list[float]:
    """Of each phase in the steps that a run takes on images; where it takes none, in all."""
    lengths = [phase_plan.stop - phase_plan.start for phase_plan in plan]
    on_images = [
        length * (not phase_plan.phase.cached_views)
        for length, phase_plan in zip(lengths, plan, strict=True)
    ]
    counted = on_images if any(on_images) else lengths
    return [length / sum(counted) for length in counted]


def _compile_one(name: str, program: programs.Program, images: int) -> tuple[Any, Cost]:
    function, cost = compile_program(program, images)
    how = "read from the cache" if cost.cached else "compiled"
    console.print(f"{name}: {how} in {cost.seconds:.1f} s")
    return function, cost


def _step_runs(
    context: TrainContext, forward: Any, phases: list[_Phase], variables: dict, batch: Batch
) -> list[TimedCall]:
    """In the order of Figures.programs."""
    steps = [
        step_run(context, phase.phase_plan, phase.function, variables, batch) for phase in phases
    ]
    return [forward_run(forward, variables, batch), *steps]


def _measure_steps(
    context: TrainContext, plan: Plan, figures: Figures, runs: list[TimedCall]
) -> None:
    """Evaluation, the phases' steps and the matmul, in turn."""
    console.print("steps: measuring")
    # Numbered, as a phase may have any name.
    named = {str(number): run for number, run in enumerate(runs)}
    dtype = compute_dtype(context.inputs.config.model.compute_dtype)
    times = plan.time({MATMUL: hardware.matmul_run(context.inputs.mesh, dtype), **named})
    figures.matmul = Matmul(hardware.matmul_size(), times[MATMUL].rate(hardware.matmul_flops()))
    for number, program in enumerate(figures.programs):
        program.step = times[str(number)]
    if plan.what == "step":
        plan.trace_run(runs[-1])


def _measure_loop(
    context: TrainContext, plan: Plan, phases: list[_Phase], variables: dict, batch: Batch
) -> None:
    """The loop around a step of nothing."""
    console.print("loop around a step of nothing: measuring")
    for phase in phases:
        nothing = step_of_nothing(phase.program)
        run = loop_run(context, phase.phase_plan, nothing, variables, itertools.repeat(batch))
        phase.figures.host = plan.time({"host": run})["host"]


def _measure_train(
    context: TrainContext, plan: Plan, phases: list[_Phase], variables: dict
) -> None:
    """The loop with the pipeline and the step, phase after phase."""
    for phase in phases:
        console.print(f"{phase.figures.name}: measuring end to end")
        batches = endless_batches(context)
        run = loop_run(context, phase.phase_plan, phase.function, variables, batches)
        run(QUEUED)
        phase.figures.train = plan.time({"train": run})["train"]
        if phase is phases[-1]:
            plan.trace_run(run)
