"""The training loop of one phase: steps, evaluations, checkpoints, and nothing in between.

A call of a step trains on one batch of images or, where their features are cached, on several
batches of features; the loop is the same.  Images/s are rows of batches per second in either case:
with cached features, how many the head takes in, and the pass that made the features has a line of
its own.

The loop never waits for the devices except every `log_every` steps, to bound how far it runs
ahead and to look at the losses; the bar moves by asking which steps are done, not by waiting.  At
these steps the state may be saved, and several processes decide whether to stop.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import Meter, progress_bar
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.system.threads import StoppedError
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.nan_guard import check_losses
from mlcls_jax.training.phase_inputs import make_phase_inputs
from mlcls_jax.training.phase_transition import (
    EarlyStopping,
    early_stopping_at,
    ended_early,
    say_ended,
)
from mlcls_jax.training.timing import StartupTimer
from mlcls_jax.training.validation import evaluate_and_save, save_between


def run_phase(
    context: TrainContext, phase_plan: PlannedPhase, state: TrainState, first_step: StartupTimer
) -> TrainState:
    """Trains from the state's step to the end of the phase, or until session.stop is set.

    A phase that ends early leaves a state at the step where it would have ended.

    Raises:
        FloatingPointError: a loss that is not finite; names step and images.
        ValueError: an image that cannot be read.
    """
    number = int(state.step)
    try:
        work = make_phase_inputs(context, phase_plan, state, first_step)
    except StoppedError:
        return state
    step = first_step.watched(work.step)
    patience = early_stopping_at(context, phase_plan, number)
    for end in [evaluation for evaluation in phase_plan.evaluations if evaluation > number]:
        context.stop.decide()  # the evaluation before, or the features, may have taken long
        moment = partial(_decide, context, phase_plan, patience, end)
        title = phase_plan.phase.name
        state, meter = run_steps(context, step, work.batches, state, title, end, work.steps, moment)
        number += meter.done
        if number == end:
            state, patience = evaluate_and_save(
                context, phase_plan, work, state, meter, patience, number
            )
            if number < phase_plan.stop and patience.is_over(phase_plan.phase.patience):
                say_ended(phase_plan, patience, number)
                return ended_early(state, phase_plan, context.mesh)
        elif meter.done and number != context.checkpoints.latest():
            save_between(context, phase_plan, state, patience, number)
        if context.stop.is_set():
            break
    return state


def _decide(
    context: TrainContext,
    phase_plan: PlannedPhase,
    patience: EarlyStopping,
    end: int,
    state: TrainState,
    number: int,
) -> None:
    """At a step that is the same for all processes: whether they stop, and a save if it is time.

    At the evaluation, `end`, there is one anyway.  A save that has not ended is not waited for.
    """
    due = context.clock.is_due() and not context.checkpoints.is_saving()
    if context.stop.decide(save=due) and number != end:
        save_between(context, phase_plan, state, patience, number)


def run_steps(
    context: TrainContext,
    step,
    batches: Iterator[Any],
    state: TrainState,
    title: str,
    end: int,
    steps: int = 1,
    moment: Callable[[TrainState, int], None] | None = None,
) -> tuple[TrainState, Meter]:
    """Steps up to `end`, or to the first one after a stop was asked for.

    Args:
        step: compiled, (state, batch) -> (state, metrics); the benchmark passes one of nothing.
        batches: on the devices, from the one of the state's step on.
        title: of the progress bar.
        end: the step to stop before.
        steps: that one call takes, or fewer where `end` comes first; see Work.
        moment: called with state and step whenever the losses so far have been looked at, which is
            at the same steps in all processes.

    Raises:
        FloatingPointError: a metric that is not finite; names step and images.
    """
    config, first = context.config, int(state.step)
    number, meter = first, Meter(end - first, config.data.batch_size)
    waited, began = 0.0, time.perf_counter()
    running: deque[tuple[int, Any]] = deque()  # losses that may still be on the devices
    unchecked: list[tuple[range, dict]] = []
    with progress_bar(title, meter, is_first_process()) as refresh:
        while number < end and not context.stop.is_set():
            asked = time.perf_counter()
            batch = next(batches)
            if not running or running[-1][1].is_ready():  # the devices waited as well
                waited += time.perf_counter() - asked
            if number == first:
                meter.begin()
            state, metrics = step(state, batch)
            taken = range(number, min(number + steps, end))
            running.append((len(taken), metrics["loss"]))
            unchecked.append((taken, metrics))
            number = taken.stop
            if number + steps - unchecked[0][0].start > config.log_every or number == end:
                check_losses(context, unchecked)
                unchecked = []
                if moment:
                    moment(state, number)
            while running and running[0][1].is_ready():  # asks, and does not wait
                meter.advance(running.popleft()[0])
            refresh()
        check_losses(context, unchecked)
        meter.advance(sum(count for count, _ in running))
    context.timer.add("input", waited)
    context.timer.add("steps", time.perf_counter() - began - waited)
    return state, meter
