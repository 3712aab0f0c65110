"""The learning-rate range test of a phase: where it starts from, and its losses.

The same few batches are seen again and again, with the same augmentation, so that the loss changes
by training alone and not from batch to batch.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlcls_jax.data.batch import to_devices
from mlcls_jax.data.loaders.loader import local_rows
from mlcls_jax.options.lr_find import LEAST
from mlcls_jax.run.checkpoint_integrity import saved_steps
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.run.trained_model import best_variables, check_metadata, read_pretrained_config
from mlcls_jax.step.feature_step import chunk_sharding
from mlcls_jax.step.lr_finder import LrFinder, lr_finder_schedule
from mlcls_jax.step.network import head_input
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.programs import feature_step_program, forward_program, step_program
from mlcls_jax.step.schedules import MakeSchedule
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import Meter, console, progress_bar
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.training.compile_ahead import batches_on_devices
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.feature_cache import feature_chunks, make_features
from mlcls_jax.training.loop import run_phase
from mlcls_jax.training.phase_transition import begin_phase, new_state
from mlcls_jax.training.timing import StartupTimer

SHARE = 10  # the test takes at most this part of the phase
BATCHES = 4  # that are seen again and again
MOST = 100  # steps


def steps_of_test(phase_plan: PlannedPhase) -> int:
    """Returns a tenth of the steps of a phase, but at least LEAST and at most MOST.

    With cached features it is MOST, because they take the time and the steps hardly any.
    """
    if phase_plan.phase.cached_views:
        return MOST
    return min(max((phase_plan.stop - phase_plan.start) // SHARE, LEAST), MOST)


def variables_at_start(
    context: TrainContext, phase_plan: PlannedPhase, state: TrainState, workdir: Path | None
) -> dict:
    """Returns the variables that a phase starts from.

    They are those of the first state, restored from the checkpoint at this step if the run has kept
    it, or else made: the earlier phases are trained as in the run.

    Args:
        context: of a new run with the same config.
        phase_plan: the phase.
        state: the first state of that run.
        workdir: of the run to restore from; None for none.

    Raises:
        ValueError: the run has another network, other pretrained weights or other classes.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    if phase_plan.start == 0:
        return variables
    earlier = [other for other in context.inputs.plan if other.stop <= phase_plan.start]
    if workdir and (found := _restored(context, earlier[-1], variables, workdir)):
        return found
    names = " and ".join(other.phase.name for other in earlier)
    console.print(f"{phase_plan.phase.name} starts from the end of {names}, trained first:")
    with StartupTimer(time.perf_counter()) as startup:
        for other in earlier:
            state = run_phase(context, other, begin_phase(context, other, state), startup)
    state = begin_phase(context, phase_plan, state)
    return {"params": state.params, "batch_stats": state.batch_stats}


def _restored(
    context: TrainContext, previous: PlannedPhase, variables: dict, workdir: Path
) -> dict | None:
    """Returns the variables of the checkpoint at the end of a phase; None if there is none.

    After a phase with `patience`, it is not that checkpoint that the next one starts from.
    """
    if previous.phase.patience or previous.stop not in saved_steps(workdir):
        return None
    checkpoints, inputs = Checkpoints(workdir, read_only=True), context.inputs
    metadata = check_metadata(checkpoints.metadata(previous.stop), previous.stop)
    same = (read_pretrained_config(metadata), tuple(metadata["classes"])) == (
        inputs.pretrained_config,
        inputs.splits["train"].classes,
    )
    if not same or metadata["phase"] != previous.phase.name:
        raise ValueError(
            f"--workdir {workdir} has other phases, other pretrained weights or other classes than "
            "--config; leave out --config to use that of the run"
        )
    found = best_variables(checkpoints, metadata, variables, inputs.config.phases)
    checkpoints.close()
    console.print(f"{workdir}: restored step {previous.stop}, the end of {previous.phase.name}")
    return found


def run_lr_test(
    context: TrainContext,
    phase_plan: PlannedPhase,
    variables: dict,
    rates: tuple[float, float],
    steps: int,
) -> LrFinder:
    """Trains a phase while the rate rises, until the loss diverges or the test ends.

    Args:
        context: of a run.
        phase_plan: the phase.
        variables: to start from, on every device; their buffers are donated.
        rates: the first and the last rate, for the group with the highest rate.
        steps: length of the test.

    Returns:
        The rates and losses of the steps whose loss is finite.
    """
    phase = phase_plan.phase
    highest = max(group.learning_rate for group in phase.groups)
    schedule = lr_finder_schedule(*rates, highest)
    rate = schedule(phase, highest, steps, 0)
    tested = PlannedPhase(phase, 0, steps, 0, (steps,))
    losses = (_on_features if phase.cached_views else _on_images)(
        context, tested, variables, schedule
    )
    batches = 1 if phase.cached_views else min(BATCHES, steps)
    test, meter = LrFinder(steps, batches), Meter(steps, context.inputs.step.batch_size)
    with progress_bar(phase.name, meter, is_first_process()) as refresh:
        for step, loss in enumerate(losses):
            if not math.isfinite(loss):
                break
            test.add(float(np.asarray(rate(step))), loss)
            if test.has_diverged:
                break
            meter.advance()
            refresh()
    return test


def _on_images(
    context: TrainContext, phase_plan: PlannedPhase, variables: dict, schedule: MakeSchedule
) -> Iterator[float]:
    """Yields the loss of each step on the same few batches of images."""
    inputs, mesh = context.inputs, context.inputs.mesh
    program = step_program(
        inputs.step, inputs.pretrained_config, phase_plan, mesh, schedule=schedule
    )
    step = program.lower().compile()  # it can never recompile
    state = new_state(variables, phase_plan, mesh)
    train, reader = inputs.splits["train"], inputs.readers["train"]
    count = min(BATCHES, phase_plan.stop)
    batches = [*batches_on_devices(inputs.step, train, mesh, 0, count, reader)]
    for batch in itertools.islice(itertools.cycle(batches), phase_plan.stop):
        state, metrics = step(state, batch)
        yield float(metrics["loss"])


def _on_features(
    context: TrainContext, phase_plan: PlannedPhase, variables: dict, schedule: MakeSchedule
) -> Iterator[float]:
    """Yields the loss of each step on the cached features of a tenth of the training images."""
    inputs, mesh = context.inputs, context.inputs.mesh
    train = inputs.splits["train"]
    count = max(len(train) // SHARE, min(len(train), inputs.step.batch_size))
    part = train.take(np.random.default_rng(inputs.step.seed).permutation(len(train))[:count])
    splits = inputs.splits | {"train": part, "val": inputs.splits["val"].take([])}
    headless = dataclasses.replace(inputs.step.network, num_classes=0)
    forward = forward_program(
        headless, inputs.pretrained_config, inputs.evaluation.batch_size, mesh, variables
    )
    program = feature_step_program(inputs.step, phase_plan, count, mesh, variables, schedule)
    features, _ = make_features(
        forward.lower().compile(),
        variables,
        head_input(inputs.step.network, variables),
        splits,
        phase_plan,
        inputs.evaluation,
        mesh,
        inputs.readers,
        context.services.stop,
    )
    step, chunk = program.lower().compile(), phase_plan.chunk_steps(inputs.step.log_every)
    state = new_state(variables, phase_plan, mesh)
    chunks = feature_chunks(
        np.ones(count, bool),
        phase_plan,
        first_step=0,
        steps=chunk,
        rows=local_rows(inputs.step.batch_size, "data.batch_size"),
        seed=inputs.step.seed,
    )
    left = phase_plan.stop
    for rows in to_devices(chunks, chunk_sharding(mesh)):
        state, metrics = step(state, features, rows)
        yield from np.asarray(metrics["loss"], float)[:left].tolist()
        left -= chunk
