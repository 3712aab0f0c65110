"""The training loop and its input pipeline, as functions to time."""

import time
from collections.abc import Iterator
from typing import Any

import jax

from mlcls_jax.benchmark.compiled_steps import make_begin
from mlcls_jax.benchmark.timing import TimedCall
from mlcls_jax.data.batch import Batch
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.training.compile_ahead import batches_on_devices
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.loop import run_steps

# Batches that may be ready before the first step. They are used up first, so that the time of
# reading is not hidden.
QUEUED = 6

_ENDLESS = 10**7  # steps


def endless_batches(context: TrainContext) -> Iterator[Batch]:
    """Returns an endless iterator of training batches, on the devices."""
    train, reader = context.inputs.splits["train"], context.inputs.readers["train"]
    return batches_on_devices(context.inputs.step, train, context.inputs.mesh, 0, _ENDLESS, reader)


def input_run(context: TrainContext) -> TimedCall:
    """Returns a function to time that reads batches from files to devices."""
    batches = endless_batches(context)

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            jax.block_until_ready(next(batches))
        return time.perf_counter() - began

    return run


def loop_run(
    context: TrainContext,
    phase_plan: PlannedPhase,
    step: Any,
    variables: dict,
    batches: Iterator[Batch],
) -> TimedCall:
    """Returns a function to time that runs the training loop; each call continues the last one.

    Args:
        context: of the run.
        phase_plan: the phase.
        step: compiled; the step of the phase, or an empty step to time the loop alone.
        variables: to start from; they are copied.
        batches: endless, on the devices.
    """
    state = make_begin(context, phase_plan)(variables)

    def run(steps: int) -> float:
        nonlocal state
        first = int(state.step)
        began = time.perf_counter()
        state, _ = run_steps(
            context, step, batches, state, end=first + steps, title=phase_plan.phase.name
        )
        return time.perf_counter() - began

    return run
