"""The state that a run starts or continues from: a checkpoint, weights, or random variables."""

from collections.abc import Callable
from typing import Any

import jax

from mlcls_jax.config import Model
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.weights.load import known_pretrained_config
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.run.own_weights import read_own_weights
from mlcls_jax.run.trained_model import check_metadata, read_pretrained_config
from mlcls_jax.step.init import initial_variables, random_variables, read_weights
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.programs import StepSpec, state_shape
from mlcls_jax.step.train_step import TrainState, make_state
from mlcls_jax.system.console import console
from mlcls_jax.training.early_stopping import read_early_stopping
from mlcls_jax.training.phase_transition import ended_early

# Called with a step and the pretrained config, if it is known, to compile and read ahead.
PreparePhase = Callable[[int, PretrainedConfig | None], None]


def restored_state(
    checkpoints: Checkpoints,
    plan: list[PlannedPhase],
    shapes: dict,
    mesh: jax.sharding.Mesh,
    prepare_phase: PreparePhase,
) -> tuple[TrainState, PretrainedConfig]:
    """Returns the state of the latest checkpoint, and the pretrained config of its weights.

    Args:
        checkpoints: of the run.
        plan: its phases.
        shapes: of the variables.
        mesh: of all devices.
        prepare_phase: called with the step and the pretrained config as soon as both are known.

    Raises:
        ValueError: the checkpoint is damaged, or of another version.
    """
    latest = checkpoints.resolve("latest")
    metadata = check_metadata(checkpoints.metadata(latest), latest)
    pretrained_config = read_pretrained_config(metadata)
    saved = next(phase_plan for phase_plan in plan if phase_plan.phase.name == metadata["phase"])
    over = read_early_stopping(metadata).is_over(saved.phase.patience)
    step = saved.stop if over else latest
    prepare_phase(step, pretrained_config)
    state = checkpoints.restore(latest, state_shape(shapes, saved, mesh))
    console.print(f"Continuing at step {step} of {plan[-1].stop}; weights: {pretrained_config}.")
    return ended_early(state, saved, mesh) if over else state, pretrained_config


def initial_state(
    model: Model,
    spec: StepSpec,
    bias: dict,
    classes: tuple[str, ...],
    shapes: dict,
    mesh: jax.sharding.Mesh,
    prepare_phase: PreparePhase,
    given: Any = None,
) -> tuple[TrainState, PretrainedConfig]:
    """Returns the state before the first phase, without an optimiser state: begin_phase adds it.

    Args:
        model: section of the config, with the weights to start from.
        spec: of the step.
        bias: of the head, as `fresh_bias` returns it.
        classes: names of the classes.
        shapes: of the variables.
        mesh: of all devices.
        prepare_phase: as in `restored_state`; called again if the weights have another config.
        given: variables of the caller's own network; None: random ones.

    Returns:
        The state, and the pretrained config of its weights.

    Raises:
        ValueError: the weights cannot be read, or are of another network.
    """
    network, seed, weights = spec.network, spec.seed, model.weights
    channels = network.in_channels
    if run := read_own_weights(model):
        pretrained_config = run.pretrained_config
        prepare_phase(0, pretrained_config)
        variables = run.variables(network, classes, shapes, seed, bias)
    elif weights:
        # The convention of named weights is known before their file is read.
        prepare_phase(0, known_pretrained_config(weights, model.variant, channels))
        pretrained = read_weights(weights, model.variant, classes, shapes)
        pretrained_config = pretrained.pretrained_config
        prepare_phase(0, pretrained_config)
        variables = initial_variables(
            network, pretrained, shapes, mesh, weights=weights, seed=seed, bias=bias
        )
    else:
        pretrained_config = PretrainedConfig(KERAS, IMAGENET).for_channels(channels)
        prepare_phase(0, pretrained_config)
        variables = random_variables(network, shapes, mesh, seed=seed, bias=bias, given=given)
    return make_state(variables, (), 0), pretrained_config
