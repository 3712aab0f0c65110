"""From one phase to the next: the variables and the optimiser state that a phase starts from."""

import dataclasses
from functools import partial

import jax
import numpy as np

from mlcls_jax.run.trained_model import best_variables, describe_checkpoint
from mlcls_jax.step.groups import group_table
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.programs import fresh_state
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import console, print_table
from mlcls_jax.system.devices import replicate, replicated
from mlcls_jax.training.context import TrainContext


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
