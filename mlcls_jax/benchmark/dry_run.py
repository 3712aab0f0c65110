"""What `train --dry-run` does: all of a start, a few steps of each phase, and nothing that lasts.

The run is rehearsed in a temporary folder: its data are read, its weights loaded and its programs
compiled, as ever; what the estimate of its time adds up is measured here.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mlcls_jax.benchmark.compiled_steps import compile_program, forward_run, step_run
from mlcls_jax.benchmark.contact_sheet import contact_sheet
from mlcls_jax.benchmark.loops import QUEUED, input_run
from mlcls_jax.config import Config, schema
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.loaders.threads import local_rows, train_batches
from mlcls_jax.run.checkpoints import has_checkpoint
from mlcls_jax.run.workdir import SHEET
from mlcls_jax.step import programs
from mlcls_jax.step.network import variables_shape
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import console, hms, print_table
from mlcls_jax.system.devices import put_local, sharded
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.phase_transition import print_groups
from mlcls_jax.training.setup import open_run, print_header

IMAGES = 24  # on the sheet
STEPS, LONG = 5, 2.0  # that are timed; fewer where one takes so many seconds


@dataclass(frozen=True)
class Estimate:
    """Of a phase, or of all evaluations.

    memory: bytes on one device at the highest point, by the compiler's analysis.
    seconds: of all steps, or of all evaluations; without compilation.
    """

    name: str
    steps: str
    memory: int
    images_per_second: float
    seconds: float


def dry_run(config: Config, workdir: Path) -> int:
    """Prints header, groups, shapes, memory and time, and draws workdir/contact_sheet.png.

    Returns:
        The exit code.

    Raises:
        ValueError: whatever `train` would say before its first step; or several processes.
    """
    if jax.process_count() > 1:
        raise ValueError("--dry-run is for one process; leave --processes and --cluster out")
    cached = config.data.cache
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache="none"))
    with tempfile.TemporaryDirectory(prefix="mlcls_jax_") as folder:
        context, state = open_run(config, Path(folder) / "run")
        print_header(dataclasses.replace(context.inputs, workdir=workdir), state)
        sheet = draw_sheet(context, workdir)
        rows = list(estimates(context, state))
        context.services.close()
    print_estimates(rows)
    if cached != "none":
        console.print("The time is without data.cache, which spares decoding in every epoch.")
    console.print(f"Look at {sheet} before you train: is every image under its own labels?")
    if has_checkpoint(workdir):
        console.print(f"{workdir} holds a run already; training would continue it.")
    return 0


def draw_sheet(context: TrainContext, workdir: Path) -> Path:
    """Writes the first training images, as a step takes them; says what a batch is."""
    config, train = context.inputs.config, context.inputs.splits["train"]
    batch = _first_batch(context)
    console.print(
        f"first batch: {_shape(batch.image)} images, {_shape(batch.label)} labels; "
        f"{(train.labels == 1).sum() / len(train):.2f} classes are on an image, "
        f"{(train.labels == UNKNOWN).mean():.1%} of the labels are unknown"
    )
    some = jax.tree.map(lambda rows: rows[:IMAGES], batch)
    workdir.mkdir(parents=True, exist_ok=True)
    contact_sheet(config.augment, config.seed, some, train.classes).save(workdir / SHEET)
    return workdir / SHEET


def estimates(context: TrainContext, state: TrainState) -> Iterator[Estimate]:
    """Yields that of each phase, and of all evaluations last.

    A phase on cached features costs one pass over the images; its steps cost next to nothing.
    Elsewhere a step lasts as long as its arithmetic or as reading its images, whichever is
    longer: they go on beside each other, but on a CPU share its cores.
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
    reading = _seconds_of_reading(context)
    looking = max(_seconds_each(forward_run(forward, variables, batch)), reading) / batch_size
    evaluations = 0
    for phase_plan in inputs.plan:
        print_groups(phase_plan, state.params)
        steps = phase_plan.stop - phase_plan.start
        evaluations += len(phase_plan.evaluations)
        if views := phase_plan.phase.cached_views:
            images = views * len(splits["train"]) + len(splits["val"])
            own = cost.memory.peak, 1 / looking, images * looking
            evaluations -= len(phase_plan.evaluations)  # of features
        else:
            own = _on_images(context, phase_plan, variables, batch, shapes, reading)
        yield Estimate(phase_plan.phase.name, f"{steps}", *own)
    seconds = evaluations * len(splits["val"]) * looking
    yield Estimate("evaluation", f"{evaluations} times", cost.memory.peak, 1 / looking, seconds)


def _on_images(
    context: TrainContext,
    phase_plan: PlannedPhase,
    variables: dict,
    batch: Batch,
    shapes: dict,
    reading: float,
) -> tuple[int, float, float]:
    """Bytes, images/s and seconds of a phase, of which some steps are taken."""
    inputs, batch_size = context.inputs, context.inputs.step.batch_size
    program = programs.step_program(
        inputs.step, inputs.pretrained_config, phase_plan, inputs.mesh, shapes
    )
    function, cost = compile_program(program, batch_size)
    step = max(_seconds_each(step_run(context, phase_plan, function, variables, batch)), reading)
    steps = phase_plan.stop - phase_plan.start
    return cost.memory.peak, batch_size / step, steps * step


def _seconds_of_reading(context: TrainContext) -> float:
    """Of a batch, once those that are read ahead are used up."""
    run = input_run(context)
    run(QUEUED)
    return _seconds_each(run)


def _seconds_each(run: Any) -> float:
    """Of one step; the first, which finds cold caches, tells how many are worth the wait."""
    first = run(1)
    return first if first > LONG else run(STEPS) / STEPS


def _first_batch(context: TrainContext) -> Batch:
    """On the host."""
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


def print_estimates(rows: list[Estimate]) -> None:
    """A table, and the sum of the times."""
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
        f"About {hms(sum(row.seconds for row in rows))} in all, without compilation and "
        "checkpoints, as measured on a few steps just now."
    )


def _shape(array: Any) -> str:
    return f"{array.dtype} [{', '.join(map(str, array.shape))}]"
