"""From one phase to the next: early stopping, and the variables that a phase starts from."""

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
    """Progress of a phase; saved with each checkpoint, so that a resumed run knows it.

    Prechelt 1998, "Early Stopping - But When?".

    Attributes:
        best: highest validation mAP of the phase; None before its first evaluation.
        without_gain: evaluations in a row that were no better.
    """

    best: float | None = None
    without_gain: int = 0

    def after(self, val_map: float) -> "EarlyStopping":
        """Returns the progress after one more evaluation; an mAP of NaN is no better than any."""
        if val_map > (float("-inf") if self.best is None else self.best):
            return EarlyStopping(val_map, 0)
        return EarlyStopping(self.best, self.without_gain + 1)

    def is_over(self, patience: int) -> bool:
        """Returns whether `patience` evaluations in a row were no better; never if it is 0."""
        return 0 < patience <= self.without_gain


def begin_phase(context: TrainContext, phase_plan: PlannedPhase, state: TrainState) -> TrainState:
    """Prints the parameter groups of a phase; at its first step, creates its optimiser state."""
    print_groups(phase_plan, state.params)
    if int(state.step) != phase_plan.start:
        return state  # continued inside the phase
    return new_state(
        _variables_to_start_from(context, phase_plan, state), phase_plan, context.inputs.mesh
    )


def print_groups(phase_plan: PlannedPhase, params: dict) -> None:
    """Prints what trains in a phase, from the parameters or their shapes."""
    rows = [
        [row.pattern, f"{row.parameters:,}", f"{row.learning_rate:g}", f"{row.weight_decay:g}"]
        for row in group_table(params, phase_plan.phase)
    ]
    name = f"{phase_plan.phase.name}: steps {phase_plan.start + 1} to {phase_plan.stop}"
    print_table(name, ["group", "parameters", "learning rate", "weight decay"], rows)


def new_state(variables: dict, phase_plan: PlannedPhase, mesh: jax.sharding.Mesh) -> TrainState:
    """Returns `fresh_state` on every device of the mesh."""
    begin = jax.jit(partial(fresh_state, phase_plan=phase_plan), out_shardings=replicated(mesh))
    return begin(variables)


def _variables_to_start_from(
    context: TrainContext, phase_plan: PlannedPhase, state: TrainState
) -> dict:
    """Returns the variables that the last phase ended with.

    After a phase with `patience`, they are those of the run's best evaluation so far; after one
    with `ema`, the better of the parameters and their EMA at its last evaluation.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    inputs, checkpoints = context.inputs, context.services.checkpoints
    previous = next((other for other in inputs.plan if other.stop == phase_plan.start), None)
    if previous is None or not (previous.phase.ema or previous.phase.patience):
        return variables
    checkpoints.wait()
    which = "best" if previous.phase.patience else "latest"
    metadata = checkpoints.metadata(checkpoints.resolve(which))
    console.print(f"{phase_plan.phase.name}: from the {describe_checkpoint(metadata)}")
    return best_variables(checkpoints, metadata, variables, inputs.config.phases)


def ended_early(state: TrainState, phase_plan: PlannedPhase, mesh: jax.sharding.Mesh) -> TrainState:
    """Returns the state at the last step of the phase: the order of the images, dropout and the
    next phase depend on the step alone."""
    return dataclasses.replace(state, step=replicate(np.asarray(phase_plan.stop, np.int32), mesh))


def read_early_stopping(metadata: dict[str, Any]) -> EarlyStopping:
    """Returns the progress of a phase at a checkpoint."""
    return EarlyStopping(**metadata.get("early_stopping", {}))


def early_stopping_at(context: TrainContext, phase_plan: PlannedPhase, step: int) -> EarlyStopping:
    """Returns the progress of a phase at its first step, or at the latest checkpoint."""
    checkpoints = context.services.checkpoints
    latest = checkpoints.latest()
    if latest is None or step == phase_plan.start:
        return EarlyStopping()
    return read_early_stopping(checkpoints.metadata(latest))


def print_ended_early(phase_plan: PlannedPhase, early_stopping: EarlyStopping, step: int) -> None:
    """Prints that a phase ended early, after the evaluation of a step."""
    best = math.nan if early_stopping.best is None else early_stopping.best
    console.print(
        f"{phase_plan.phase.name}: ended after {step - phase_plan.start} of "
        f"{phase_plan.stop - phase_plan.start} steps, because {early_stopping.without_gain} "
        f"evaluations in a row were no better than mAP {best:.4f}"
    )
