"""The training loop of one phase: steps, evaluations and checkpoints.

A call of a step trains on one batch of images or, with cached features, on several batches of
features; the loop is the same.  Images/s are rows of batches per second in both cases; the pass
that computes the features prints a line of its own.

The loop waits for the devices only every `log_every` steps, to bound how far it runs ahead and to
check the losses; the progress bar asks which steps are done and does not wait.  At these steps the
state may be saved, and several processes agree on whether to stop.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import Meter, progress_bar
from mlcls_jax.system.devices import is_first_process, replicate
from mlcls_jax.system.threads import StoppedError
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.early_stopping import EarlyStopping, early_stopping_at, print_ended_early
from mlcls_jax.training.nan_guard import check_losses
from mlcls_jax.training.phase_inputs import make_phase_inputs
from mlcls_jax.training.phase_transition import ended_early
from mlcls_jax.training.progress import PhaseProgress, epoch_of
from mlcls_jax.training.timing import StartupTimer
from mlcls_jax.training.validation import (
    Evaluator,
    log_evaluation,
    save_between,
    save_evaluation,
)


def run_phase(
    context: TrainContext, phase_plan: PlannedPhase, state: TrainState, startup: StartupTimer
) -> TrainState:
    """Returns the state after a phase, trained from the given state's step until a stop is set.

    A phase that ends early returns a state whose step is the phase's last one.

    Raises:
        FloatingPointError: a loss that is not finite; names step and images.
        ValueError: an image cannot be read.
    """
    services, step = context.services, int(state.step)
    try:
        phase_inputs = make_phase_inputs(context, phase_plan, state, startup)
    except StoppedError:
        return state
    train_step = startup.watched(phase_inputs.step)
    evaluator = Evaluator(context, phase_inputs)
    early_stopping = early_stopping_at(context, phase_plan, step)
    metric = context.inputs.config.evaluation.best
    progress = _progress(context, phase_plan, step, startup)
    for end in [evaluation for evaluation in phase_plan.evaluations if evaluation > step]:
        services.stop.decide()  # the last evaluation, or the features, may have taken long
        progress.evaluated()
        state, meter = run_steps(
            context,
            train_step,
            phase_inputs.batches,
            state,
            end=end,
            steps_per_call=phase_inputs.steps_per_call,
            title=f"{phase_plan.phase.name} epoch {epoch_of(context.inputs, end)}",
            detail=progress.text,
            after_check=partial(_save_if_due, context, phase_plan, early_stopping, end),
        )
        step += meter.done
        if step < end:  # a stop was requested
            if meter.done and step != services.checkpoints.latest():
                save_between(context, phase_plan, state, step, early_stopping)
            break
        with services.timer.measure("evaluation"):
            result = evaluator.run(state, step)
        log_evaluation(context, phase_plan, result, state, meter, step)
        state = _with_loss_reset(state, context.inputs.mesh)
        if result.scores:
            early_stopping = early_stopping.after(result.values[metric], metric)
        save_evaluation(context, phase_plan, state, step, early_stopping, result)
        if step < phase_plan.stop and early_stopping.is_over(phase_plan.phase.patience):
            print_ended_early(phase_plan, early_stopping, step, metric)
            return ended_early(state, phase_plan, context.inputs.mesh)
        if services.stop.is_set():
            break
    return state


def _progress(
    context: TrainContext, phase_plan: PlannedPhase, step: int, startup: StartupTimer
) -> PhaseProgress:
    inputs = context.inputs
    return PhaseProgress(
        phase_plan,
        is_last=phase_plan == inputs.plan[-1],
        workdir=inputs.workdir,
        metric=inputs.config.evaluation.best,
        run_began=startup.began,
        first=step,
    )


def _save_if_due(
    context: TrainContext,
    phase_plan: PlannedPhase,
    early_stopping: EarlyStopping,
    end: int,
    state: TrainState,
    step: int,
) -> None:
    """Agrees with the other processes on a stop, and saves if it is time; `end` saves anyway.

    A save that is still running is not waited for.
    """
    services = context.services
    due = services.save_clock.is_due() and not services.checkpoints.is_saving()
    if services.stop.decide(save=due) and step != end:
        save_between(context, phase_plan, state, step, early_stopping)


def _with_loss_reset(state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """Returns the state with the sums of the training loss set to zero."""
    # Two arrays, as one buffer cannot be donated twice; from the host, so that nothing compiles.
    zeros = [np.zeros((), np.float32) for _ in range(2)]
    loss_sum, label_count = replicate(zeros, mesh)
    return dataclasses.replace(state, loss_sum=loss_sum, label_count=label_count)


def run_steps(
    context: TrainContext,
    train_step: Callable[[TrainState, Any], tuple[TrainState, dict]],
    batches: Iterator[Any],
    state: TrainState,
    *,
    end: int,
    title: str,
    steps_per_call: int = 1,
    detail: Callable[[int, Any], str] | None = None,
    after_check: Callable[[TrainState, int], None] | None = None,
) -> tuple[TrainState, Meter]:
    """Steps up to `end`, or to the first step after a stop was requested.

    Args:
        context: of the run.
        train_step: compiled, (state, batch) -> (state, metrics); the benchmark passes an empty one.
        batches: on the devices, from the batch of the state's step on.
        state: to continue from; its buffers are donated.
        end: the step to stop before.
        title: of the progress bar.
        steps_per_call: steps that one call takes, or fewer if `end` comes first.
        detail: returns the text beside the progress bar, from the number of finished steps of the
            run and the loss of the last finished call.
        after_check: called with state and step whenever the losses so far were checked, which is
            at the same steps in all processes.

    Raises:
        FloatingPointError: a metric that is not finite; names step and images.
    """
    spec, services = context.inputs.step, context.services
    first = step = int(state.step)
    meter = Meter(end - first, spec.batch_size)
    waited, began = 0.0, time.perf_counter()
    running: deque[tuple[int, Any]] = deque()  # losses that may still be on the devices
    unchecked: list[tuple[range, dict]] = []
    finished = None  # loss of the last finished call

    def text() -> str:
        return detail(first + meter.done, finished) if detail else ""

    with progress_bar(title, meter, is_first_process(), text if detail else None) as refresh:
        while step < end and not services.stop.is_set():
            asked = time.perf_counter()
            batch = next(batches)
            if not running or running[-1][1].is_ready():  # the devices waited as well
                waited += time.perf_counter() - asked
            if step == first:
                meter.begin()
            state, metrics = train_step(state, batch)
            taken = range(step, min(step + steps_per_call, end))
            running.append((len(taken), metrics["loss"]))
            unchecked.append((taken, metrics))
            step = taken.stop
            if step + steps_per_call - unchecked[0][0].start > spec.log_every or step == end:
                check_losses(context, unchecked)
                unchecked = []
                if after_check:
                    after_check(state, step)
            while running and running[0][1].is_ready():  # asks, and does not wait
                count, finished = running.popleft()
                meter.advance(count)
            refresh()
        check_losses(context, unchecked)
        meter.advance(sum(count for count, _ in running))
    services.timer.add("input", waited)
    services.timer.add("steps", time.perf_counter() - began - waited)
    return state, meter
