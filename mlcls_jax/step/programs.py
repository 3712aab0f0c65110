"""The programs of a run, built from its config and the shapes of its arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mlcls_jax.config import Augment, Config, Loss, Phase
from mlcls_jax.data.batch import Batch
from mlcls_jax.models.conventions import Normalization, PretrainedConfig
from mlcls_jax.step.ema import NO_EMA, Decay, EmaState, decay_by_step
from mlcls_jax.step.feature_step import (
    FeatureChunk,
    Features,
    chunk_sharding,
    make_classify,
    make_feature_step,
)
from mlcls_jax.step.groups import active_modules, count_stages, trainable_paths
from mlcls_jax.step.losses import make_loss
from mlcls_jax.step.mixup import make_mixed_inputs, mixes
from mlcls_jax.step.network import (
    NetworkSpec,
    build_efficientnet,
    build_model,
    head_input,
    network_spec,
    variables_shape,
    with_sharding,
)
from mlcls_jax.step.optimizer import make_optimizer
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.schedules import MakeSchedule, make_schedule
from mlcls_jax.step.train_step import (
    Inputs,
    TrainState,
    changed_statistics,
    make_eval_step,
    make_inputs,
    make_state,
    make_train_step,
    partition,
)
from mlcls_jax.system.devices import replicated, sharded

HARD = np.dtype(np.int8)  # of labels that are 1, 0 or UNKNOWN


@dataclass(frozen=True)
class Program:
    """A jitted function and the shapes of its arguments, with shardings."""

    function: Any
    arguments: tuple

    def lower(self) -> jax.stages.Lowered:
        """Returns the function, traced for the shapes of its arguments."""
        return self.function.lower(*self.arguments)


@dataclass(frozen=True)
class StepSpec:
    """What all training steps of a run share.

    Attributes:
        network: settings of the network.
        loss: the section of the config.
        augment: the section of the config; a step uses its fields for mixup and CutMix.
        frequencies: float [class], share of positives per class in train; None if unknown.
        label_dtype: type of the training labels: int8, or float32 for soft labels.
        batch_size: images per step, over all devices.
        log_every: steps between two checks of the losses.
        seed: of dropout, drop path and mixup.
        skip_nan: whether a step with a loss or gradient that is not finite is skipped.
    """

    network: NetworkSpec
    loss: Loss
    augment: Augment
    frequencies: Sequence[float] | np.ndarray | None
    label_dtype: np.dtype
    batch_size: int
    log_every: int
    seed: int
    skip_nan: bool


def step_spec(
    config: Config,
    num_classes: int,
    frequencies: Sequence[float] | np.ndarray | None = None,
    label_dtype: np.dtype = HARD,
) -> StepSpec:
    """Returns what all training steps of a run share.

    Args:
        config: of the run.
        num_classes: number of classes.
        frequencies: float [class], share of positives per class in train; None if unknown.
        label_dtype: see StepSpec.

    Raises:
        ValueError: the loss has weights of another number of classes.
    """
    if frequencies is not None:
        make_loss(config.loss, num_classes, frequencies)
    return StepSpec(
        network=network_spec(config.model, num_classes),
        loss=config.loss,
        augment=config.augment,
        frequencies=frequencies,
        label_dtype=label_dtype,
        batch_size=config.data.batch_size,
        log_every=config.log_every,
        seed=config.seed,
        skip_nan=config.train.on_nan == "skip",
    )


def fresh_state(variables: dict, phase_plan: PlannedPhase) -> TrainState:
    """Returns the state at the start of a phase, with a new optimiser state.

    If the phase has an EMA, it starts with the values of the variables.

    Args:
        variables: nested trees {params, batch_stats}.
        phase_plan: the phase.
    """
    params = variables["params"]
    leaves, _ = partition(params, trainable_paths(params, phase_plan.phase))
    opt_state = _optimizer(phase_plan, params).init(leaves)
    # Copies, because one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, ema_leaves(variables, phase_plan.phase))
    return make_state(variables, opt_state, phase_plan.start, ema)


def ema_leaves(variables: dict, phase: Phase) -> EmaState:
    """Returns the variables (or shapes) that the phase averages; NO_EMA without `ema`."""
    if not phase.ema:
        return NO_EMA
    trainable = trainable_paths(variables["params"], phase)
    leaves, _ = partition(variables["params"], trainable)
    active = active_modules(trainable, phase, variables["batch_stats"])
    return EmaState(leaves, changed_statistics(variables["batch_stats"], active))


def state_shape(variables: dict, phase_plan: PlannedPhase, mesh: Mesh) -> Any:
    """Returns the shapes of a phase's state, replicated over the mesh.

    Args:
        variables: what `variables_shape` returns.
        phase_plan: the phase.
        mesh: of all devices.
    """
    state = jax.eval_shape(partial(fresh_state, phase_plan=phase_plan), variables)
    return with_sharding(state, replicated(mesh))


def batch_shape(spec: StepSpec, mesh: Mesh) -> Batch:
    """Returns the shapes of a training batch, whose rows are spread over the mesh."""
    network, batch_size = spec.network, spec.batch_size
    batch = Batch(
        image=jax.ShapeDtypeStruct((batch_size, *network.image_shape), jnp.uint8),
        label=jax.ShapeDtypeStruct((batch_size, network.num_classes), spec.label_dtype),
        position=jax.ShapeDtypeStruct((batch_size,), jnp.uint32),
    )
    return with_sharding(batch, sharded(mesh))


def step_program(
    spec: StepSpec,
    pretrained_config: PretrainedConfig,
    phase_plan: PlannedPhase,
    mesh: Mesh,
    variables: dict | None = None,
    schedule: MakeSchedule = make_schedule,
) -> Program:
    """Returns the training step of a phase: (state, batch) -> (state, metrics).

    Args:
        spec: what all steps of the run share.
        pretrained_config: convention and normalisation of the weights.
        phase_plan: the phase.
        mesh: of all devices.
        variables: what `variables_shape` returns; None computes it.
        schedule: makes the learning-rate schedule of each group.
    """
    variables = variables or variables_shape(spec.network, mesh)
    trainable = trainable_paths(variables["params"], phase_plan.phase)
    active = active_modules(trainable, phase_plan.phase, variables["batch_stats"])
    step = make_train_step(
        build_model(spec.network, pretrained_config.convention, active),
        _optimizer(phase_plan, variables["params"], schedule),
        trainable,
        step_inputs(spec.augment, spec.seed, pretrained_config.normalization),
        make_loss(spec.loss, spec.network.num_classes, spec.frequencies),
        spec.seed,
        mesh,
        phase_plan.phase.accumulate,
        _decay(phase_plan),
        spec.skip_nan,
    )
    batch = batch_shape(spec, mesh)
    return Program(step, (state_shape(variables, phase_plan, mesh), batch))


def forward_program(
    network: NetworkSpec,
    pretrained_config: PretrainedConfig,
    batch_size: int,
    mesh: Mesh,
    variables: dict | None = None,
) -> Program:
    """Returns the evaluation of a batch: (variables, images) -> logits; see `make_eval_step`.

    Args:
        network: settings of the network.  With num_classes=0 the program returns the inputs of the
            head, and the variables may contain a head.
        pretrained_config: convention and normalisation of the weights.
        batch_size: images per call, over all devices.
        mesh: of all devices.
        variables: what `variables_shape` returns; None computes it.
    """
    model = build_model(network, pretrained_config.convention)
    shape = (batch_size, *network.image_shape)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharded(mesh))
    predict = make_eval_step(model, pretrained_config.normalization, mesh)
    variables = variables or variables_shape(network, mesh)
    return Program(predict, (variables, images))


def feature_step_program(
    spec: StepSpec,
    phase_plan: PlannedPhase,
    images: int,
    mesh: Mesh,
    variables: dict,
    schedule: MakeSchedule = make_schedule,
) -> Program:
    """Returns the steps of a phase with cached features; see `make_feature_step`.

    Args:
        spec: what all steps of the run share.
        phase_plan: the phase; its cached_views is the number of features per image.
        images: number of images in the training split.
        mesh: of all devices.
        variables: what `variables_shape` returns.
        schedule: makes the learning-rate schedule of each group.
    """
    trainable = trainable_paths(variables["params"], phase_plan.phase)
    step = make_feature_step(
        build_efficientnet(spec.network),
        _optimizer(phase_plan, variables["params"], schedule),
        trainable,
        make_loss(spec.loss, spec.network.num_classes, spec.frequencies),
        spec.seed,
        mesh,
        phase_plan.phase.accumulate,
        _decay(phase_plan),
        spec.skip_nan,
    )
    one_image, views = head_input(spec.network, variables), phase_plan.phase.cached_views
    rows = phase_plan.chunk_steps(spec.log_every), spec.batch_size
    features = Features(
        inputs=jax.ShapeDtypeStruct((images, views, *one_image.shape), one_image.dtype),
        label=jax.ShapeDtypeStruct((images, spec.network.num_classes), spec.label_dtype),
    )
    chunk = FeatureChunk(
        row=jax.ShapeDtypeStruct(rows, jnp.int32), position=jax.ShapeDtypeStruct(rows, jnp.uint32)
    )
    state = state_shape(variables, phase_plan, mesh)
    features = with_sharding(features, replicated(mesh))
    return Program(step, (state, features, with_sharding(chunk, chunk_sharding(mesh))))


def classify_program(
    network: NetworkSpec, batch_size: int, images: int, mesh: Mesh, variables: dict
) -> Program:
    """Returns the head alone: (variables, inputs) -> logits; see `make_classify`.

    Args:
        network: settings of the network.
        batch_size: images per pass of the head.
        images: number of images in `inputs`.
        mesh: of all devices.
        variables: what `variables_shape` returns.
    """
    classify = make_classify(build_efficientnet(network), batch_size, mesh)
    one_image = head_input(network, variables)
    shape = (images, *one_image.shape)
    inputs = jax.ShapeDtypeStruct(shape, one_image.dtype, sharding=replicated(mesh))
    return Program(classify, (variables, inputs))


def step_inputs(augment: Augment, seed: int, normalization: Normalization) -> Inputs:
    """Returns the function from a batch to the inputs of a step, with mixup and CutMix if on.

    Args:
        augment: the section of the config.
        seed: of mixup and CutMix.
        normalization: mean and standard deviation that the weights expect.
    """
    inputs = make_inputs(normalization)
    return make_mixed_inputs(inputs, augment, seed) if mixes(augment) else inputs


def _optimizer(phase_plan: PlannedPhase, params: dict, schedule: MakeSchedule = make_schedule):
    """Returns the optimiser of a phase, from the parameters or their shapes."""
    return make_optimizer(
        phase_plan.phase,
        trainable_paths(params, phase_plan.phase),
        phase_plan.stop - phase_plan.start,
        phase_plan.warmup,
        stages=count_stages(params),
        schedule=schedule,
    )


def _decay(phase_plan: PlannedPhase) -> Decay | None:
    ema = phase_plan.phase.ema
    return decay_by_step(ema, phase_plan.start) if ema else None
