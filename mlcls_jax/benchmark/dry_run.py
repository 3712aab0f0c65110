"""`train --dry-run` and `--minutes`: take a few steps in a temporary folder, and estimate the time.

The data are read, the weights loaded and the programs compiled as in training. The only file that
stays is the contact sheet of a dry run.
"""

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mlcls_jax.benchmark.compiled_steps import compile_program, forward_run, step_run
from mlcls_jax.benchmark.contact_sheet import contact_sheet
from mlcls_jax.benchmark.loops import QUEUED, input_run
from mlcls_jax.benchmark.timing import TimedCall
from mlcls_jax.config import Config, schema
from mlcls_jax.config.recipes import DURATION, SIZE, fit_minutes, with_fields
from mlcls_jax.config.schema import has_folds
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.loaders.loader import local_rows, train_batches
from mlcls_jax.data.loaders.order import train_order
from mlcls_jax.run.checkpoint_integrity import fold_folder
from mlcls_jax.run.checkpoints import has_checkpoint
from mlcls_jax.run.workdir import SHEET, read_config
from mlcls_jax.step import programs
from mlcls_jax.step.network import variables_shape
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.bucket import uploaded
from mlcls_jax.system.console import console, hms, print_table
from mlcls_jax.system.devices import put_local, sharded
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.data_card import show_data
from mlcls_jax.training.phase_transition import print_groups
from mlcls_jax.training.run_summary import print_header
from mlcls_jax.training.setup import open_run

IMAGES = 24  # on the contact sheet
STEPS = 5  # timed steps
FIRST_FOLD = {"data.fold": 0, "data.refit": False}
LONG = 2.0  # seconds; if one step takes longer, no more steps are timed


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a phase, or of all evaluations.

    Attributes:
        name: of the phase, or "evaluation".
        steps: number of steps or evaluations, as text.
        memory: peak bytes on one device, from the compiler.
        images_per_second: measured rate.
        seconds: time of all steps or evaluations, without compilation.
    """

    name: str
    steps: str
    memory: int
    images_per_second: float
    seconds: float


def dry_run(config: Config, workdir: Path) -> int:
    """Prints what training would do and cost, and draws WORKDIR/contact_sheet.png.

    Args:
        config: of the run.
        workdir: folder of the run; only the contact sheet is written there.

    Returns:
        The exit code.

    Raises:
        ValueError: an error that training would raise before its first step, or there are several
            processes.
    """
    if jax.process_count() > 1:
        raise ValueError("--dry-run needs a single process; leave out --processes and --cluster")
    if config.minutes:
        config = plan_minutes(config, workdir, time.perf_counter())
    runs = config.data.folds + config.data.refit if has_folds(config.data) else 1
    if has_folds(config.data):
        config = with_fields(config, FIRST_FOLD)
        console.print("This is the first of the folds; the others cost the same.")
    cached = config.data.cache
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache="none"))
    with tempfile.TemporaryDirectory(prefix="mlcls_jax_") as folder:
        context, state = open_run(config, Path(folder) / "run")
        print_header(dataclasses.replace(context.inputs, workdir=workdir), state)
        show_data(context.inputs, keep=False)
        sheet = draw_sheet(context, workdir)
        rows = list(estimates(context, state))
        context.services.close()
    print_estimates(rows)
    if runs > 1:
        console.print(
            f"There are {runs} such runs, of which only the first computes cached features."
        )
    if cached != "none":
        console.print("The times are without data.cache, which decodes each image only once.")
    console.print(f"Check {sheet} before you train: does every image have the right labels?")
    if has_checkpoint(workdir):
        console.print(f"{workdir} already has a run; training would continue it.")
    return 0


def plan_minutes(config: Config, workdir: Path, began: float, given: str = "") -> Config:
    """Returns the config with the epochs and image size that fit config.minutes.

    A few steps are measured with the config's recipe, of the first fold if there are folds, which
    share the minutes.  A run that continues keeps its plan.

    Args:
        config: of the run; its minutes are above 0.
        workdir: folder of the run; nothing is written there.
        began: time.perf_counter() at the start of the command.
        given: the option, for the message; "": --minutes of the config.

    Raises:
        ValueError: an error that training would raise before its first step, too little time, or
            several processes.
    """
    given = given or f"--minutes {config.minutes:g}"
    if has_folds(data := config.data):
        runs = data.folds + data.refit
        first = with_fields(config, FIRST_FOLD | {"minutes": config.minutes / runs})
        given = f"{given} for {runs} runs"
        planned = plan_minutes(first, fold_folder(workdir, 0), began, given)
        return dataclasses.replace(planned, data=data, minutes=config.minutes)
    if has_checkpoint(workdir):
        run = read_config(workdir)
        return with_fields(config, {DURATION: run.phases[-1].duration, SIZE: run.model.image_size})
    if jax.process_count() > 1:
        raise ValueError("--minutes needs a single process; set the durations of the phases")
    console.print(f"Measuring the speed, to plan {config.minutes:g} minutes of training.")
    # The images would be cached for a size that may change.
    measured = with_fields(config, {"data.cache": "none", "minutes": 0.0})
    with tempfile.TemporaryDirectory(prefix="mlcls_jax_") as folder:
        context, state = open_run(measured, Path(folder) / "run")
        try:
            *before, finetune, evaluation = estimates(context, state)
        finally:
            context.services.close()
    inputs, phase_plan = context.inputs, context.inputs.plan[-1]
    evaluations = sum(len(p.evaluations) for p in inputs.plan if not p.phase.cached_views)
    share = (
        len(phase_plan.evaluations)
        / evaluations
        * (1 + len(inputs.sample) / len(inputs.splits["val"]))
    )
    epochs = (phase_plan.stop - phase_plan.start) * inputs.step.batch_size
    epochs /= len(inputs.splits["train"])
    epoch_seconds = (finetune.seconds + share * evaluation.seconds) / epochs
    # The run itself starts once more, in about the same time.
    start = 2 * (time.perf_counter() - began) + sum(row.seconds for row in before)
    left, size = 60 * config.minutes - start, inputs.evaluation.image_size
    fields = fit_minutes(left, epoch_seconds, epochs, size)
    text = f"An epoch of finetune takes {hms(epoch_seconds)}, all before it {hms(start)}"
    if fields is None:
        raise ValueError(
            f"{given} is too little: {text[0].lower()}{text[1:]}; use more "
            "minutes, --recipe fast or a smaller model.variant, or train only the head with "
            "'--config.phases[1].duration=0 steps'"
        )
    planned = ", ".join(f"{path}={value}" for path, value in fields.items())
    console.print(f"{text}; planned: {planned or 'everything that the config says'}")
    return with_fields(config, fields)


def draw_sheet(context: TrainContext, workdir: Path) -> Path:
    """Draws the first training images as a step sees them, and prints the shape of a batch.

    Returns:
        The path of the contact sheet.
    """
    config, train = context.inputs.config, context.inputs.splits["train"]
    batch = _first_batch(context)
    console.print(
        f"first batch: {_shape(batch.image)} images, {_shape(batch.label)} labels; "
        f"{(train.labels == 1).sum() / len(train):.2f} positive labels per image, "
        f"{(train.labels == UNKNOWN).mean():.1%} of the labels unknown"
    )
    shown = jax.tree.map(lambda rows: rows[:IMAGES], batch)
    names = _first_names(context)[:IMAGES]
    workdir.mkdir(parents=True, exist_ok=True)
    contact_sheet(config.augment, config.seed, shown, train.classes, names).save(workdir / SHEET)
    uploaded(workdir / SHEET)
    return workdir / SHEET


def estimates(context: TrainContext, state: TrainState) -> Iterator[Estimate]:
    """Yields an estimate for each phase, and one for all evaluations.

    A phase on cached features costs one pass over the images; its steps cost almost nothing.
    In other phases, computing and reading run at the same time, so a step takes the longer of the
    two. On a CPU they share the cores, and a step takes longer than estimated.

    Args:
        context: of the run.
        state: the first state of the run.
    """
    inputs, splits = context.inputs, context.inputs.splits
    batch_size, network = inputs.step.batch_size, inputs.step.network
    shapes = variables_shape(network, inputs.mesh)
    batch = put_local(_first_batch(context), sharded(inputs.mesh))
    program = programs.forward_program(
        network, inputs.pretrained_config, batch_size, inputs.mesh, shapes
    )
    forward, cost = compile_program(program, batch_size)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    read_seconds = _read_seconds(context)
    forward_seconds = max(_step_seconds(forward_run(forward, variables, batch)), read_seconds)
    image_seconds = forward_seconds / batch_size
    evaluations = 0
    for phase_plan in inputs.plan:
        print_groups(phase_plan, state.params)
        steps = phase_plan.stop - phase_plan.start
        evaluations += len(phase_plan.evaluations)
        if views := phase_plan.phase.cached_views:
            images = views * len(splits["train"]) + len(splits["val"])
            memory, rate, seconds = cost.memory.peak, 1 / image_seconds, images * image_seconds
            evaluations -= len(phase_plan.evaluations)  # they use the features
        else:
            memory, rate, seconds = _estimate_on_images(
                context, phase_plan, variables, batch, shapes, read_seconds
            )
        yield Estimate(phase_plan.phase.name, f"{steps}", memory, rate, seconds)
    seconds = evaluations * len(splits["val"]) * image_seconds
    yield Estimate(
        "evaluation", f"{evaluations} x val", cost.memory.peak, 1 / image_seconds, seconds
    )


def _estimate_on_images(
    context: TrainContext,
    phase_plan: PlannedPhase,
    variables: dict,
    batch: Batch,
    shapes: dict,
    read_seconds: float,
) -> tuple[int, float, float]:
    """Returns bytes, images/s and seconds of a phase, after timing some of its steps."""
    inputs, batch_size = context.inputs, context.inputs.step.batch_size
    program = programs.step_program(
        inputs.step, inputs.pretrained_config, phase_plan, inputs.mesh, shapes
    )
    function, cost = compile_program(program, batch_size)
    timed = step_run(context, phase_plan, function, variables, batch)
    seconds = max(_step_seconds(timed), read_seconds)
    steps = phase_plan.stop - phase_plan.start
    return cost.memory.peak, batch_size / seconds, steps * seconds


def _read_seconds(context: TrainContext) -> float:
    """Returns the seconds of reading a batch, after the batches that were read ahead."""
    run = input_run(context)
    run(QUEUED)
    return _step_seconds(run)


def _step_seconds(run: TimedCall) -> float:
    """Returns the seconds of one step: that of the first if it is long, or the mean of a few."""
    first = run(1)
    return first if first > LONG else run(STEPS) / STEPS


def _first_batch(context: TrainContext) -> Batch:
    """Returns the first training batch, on the host."""
    config = context.inputs.config
    batches = train_batches(
        context.inputs.splits["train"],
        first_step=0,
        last_step=1,
        rows=local_rows(config.data.batch_size, "data.batch_size"),
        size=schema.image_size(config.model),
        augment=config.augment,
        seed=config.seed,
        reader=context.inputs.readers["train"],
    )
    return next(batches)


def _first_names(context: TrainContext) -> list[str]:
    """Returns the file names of the first training batch, once it was read."""
    config, train = context.inputs.config, context.inputs.splits["train"]
    rows, bad = (
        local_rows(config.data.batch_size, "data.batch_size"),
        context.inputs.readers["train"].bad,
    )
    _, indices = train_order(train.paths, config.seed, bad, rows, 0, 1, train.repeats)
    return [train.filenames[index] for index in indices.ravel()]


def print_estimates(rows: list[Estimate]) -> None:
    """Prints a table of the estimates, and the sum of their times."""
    table = [
        [
            row.name,
            row.steps,
            f"{row.memory / 1e9:.2f} GB",
            f"{row.images_per_second:.1f}",
            hms(row.seconds),
        ]
        for row in rows
    ]
    columns = ["dry run", "steps", "memory per device", "images/s", "time"]
    print_table("", columns, table)
    console.print(
        f"About {hms(sum(row.seconds for row in rows))} in total, measured on a few steps, without "
        "compilation and checkpoints."
    )


def _shape(array: Any) -> str:
    return f"{array.dtype} [{', '.join(map(str, array.shape))}]"
