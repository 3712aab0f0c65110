"""From one phase to the next: what it begins with, and when one has lasted long enough."""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from mlcls_jax.run.trained_model import best_variables, describe_checkpoint
from mlcls_jax.step.optimizer import group_table
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.programs import fresh_state
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import console, print_table
from mlcls_jax.system.devices import replicate, replicated
from mlcls_jax.training.context import TrainContext


@dataclass(frozen=True)
class EarlyStopping:
    """How a phase has gone so far; kept with each checkpoint, so that a resumed run knows it.

    best: highest validation mAP of the phase; None before the first.
    without: evaluations in a row since it.
    """

    best: float | None = None
    without: int = 0

    def after(self, val_map: float) -> "EarlyStopping":
        """With one more evaluation; one without an mAP (NaN) is no better than any."""
        if val_map > (float("-inf") if self.best is None else self.best):
            return EarlyStopping(val_map, 0)
        return EarlyStopping(self.best, self.without + 1)

    def is_over(self, most: int) -> bool:
        """Whether there were as many evaluations in a row as the phase waits for; 0: never."""
        return 0 < most <= self.without


def begin_phase(context: TrainContext, phase_plan: PlannedPhase, state: TrainState) -> TrainState:
    """Prints the phase's parameter groups; at its first step, makes its optimiser state."""
    print_groups(phase_plan, state.params)
    if int(state.step) != phase_plan.start:
        return state  # continued inside the phase
    return new_state(_handed_on(context, phase_plan, state), phase_plan, context.mesh)


def print_groups(phase_plan: PlannedPhase, params: dict) -> None:
    """The table of what trains in a phase, from the parameters or their shapes."""
    rows = [
        [row.pattern, f"{row.parameters:,}", f"{row.learning_rate:g}", f"{row.weight_decay:g}"]
        for row in group_table(params, phase_plan.phase)
    ]
    name = f"{phase_plan.phase.name}: steps {phase_plan.start + 1} to {phase_plan.stop}"
    print_table(name, ["group", "parameters", "learning rate", "weight decay"], rows)


def new_state(variables: dict, phase_plan: PlannedPhase, mesh: jax.sharding.Mesh) -> TrainState:
    """`fresh_state` on every device of the mesh."""
    begin = jax.jit(partial(fresh_state, phase_plan=phase_plan), out_shardings=replicated(mesh))
    return begin(variables)


def _handed_on(context: TrainContext, phase_plan: PlannedPhase, state: TrainState) -> dict:
    """The variables that a phase begins with: those that the phase before it ended with.

    Of a phase with `ema`, the better of the parameters and their average at its last evaluation; of
    one with `patience`, whether it ended early or not, those of the run's best evaluation so far.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    before = next((of for of in context.plan if of.stop == phase_plan.start), None)
    if before is None or not (before.phase.ema or before.phase.patience):
        return variables
    checkpoints = context.checkpoints
    checkpoints.wait()
    metadata = checkpoints.metadata(
        checkpoints.resolve("best" if before.phase.patience else "latest")
    )
    console.print(f"{phase_plan.phase.name}: from the {describe_checkpoint(metadata)}")
    return best_variables(checkpoints, metadata, variables, context.config)


def ended_early(state: TrainState, phase_plan: PlannedPhase, mesh: jax.sharding.Mesh) -> TrainState:
    """The state, gone on to where the phase would have ended: the order of the images, dropout
    and the next phase follow from the step alone."""
    return dataclasses.replace(state, step=replicate(np.asarray(phase_plan.stop, np.int32), mesh))


def read_early_stopping(metadata: dict[str, Any]) -> EarlyStopping:
    """How the phase of a checkpoint had gone until then."""
    return EarlyStopping(**metadata.get("patience", {}))


def early_stopping_at(
    context: TrainContext, phase_plan: PlannedPhase, number: int
) -> EarlyStopping:
    """How a phase has gone until a step: before its first one, or at the latest checkpoint."""
    latest = context.checkpoints.latest()
    if latest is None or number == phase_plan.start:
        return EarlyStopping()
    return read_early_stopping(context.checkpoints.metadata(latest))


def say_ended(phase_plan: PlannedPhase, patience: EarlyStopping, number: int) -> None:
    """A line on a phase that ends early, after the evaluation of this step."""
    best = math.nan if patience.best is None else patience.best
    console.print(
        f"{phase_plan.phase.name}: ended after {number - phase_plan.start} of "
        f"{phase_plan.stop - phase_plan.start} steps, as {patience.without} evaluations in a row "
        f"were no better than mAP {best:.4f}"
    )
