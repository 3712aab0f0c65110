"""The programs of a run, built from its config and shapes alone: nothing here makes an array."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mlcls_jax.config import Config, Phase
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.batch import Batch
from mlcls_jax.models.conventions import KERAS, Convention, Normalization, PretrainedConfig
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import DecoderSize, query_count
from mlcls_jax.models.variants import STRIDE
from mlcls_jax.step.ema import NO_EMA, Decay, EmaState, decay_by_step
from mlcls_jax.step.feature_step import (
    FeatureChunk,
    Features,
    chunk_sharding,
    make_classify,
    make_feature_step,
)
from mlcls_jax.step.losses import make_loss
from mlcls_jax.step.mixup import make_mixed_inputs, mixes
from mlcls_jax.step.optimizer import active_modules, count_stages, make_optimizer, trainable_paths
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
from mlcls_jax.system.devices import AXIS, compute_dtype, replicated, sharded


@dataclass(frozen=True)
class Program:
    """A jitted function and the shapes (with shardings) of the arguments that it is called with."""

    function: Any
    arguments: tuple

    def lower(self) -> jax.stages.Lowered:
        """Traced for those shapes, and for no others."""
        return self.function.lower(*self.arguments)


def describe_network(config: Config, num_classes: int) -> str:
    """Its name, the images' side, and the queries of a decoder."""
    text = f"EfficientNet {config.model.variant}, {image_size(config)} px"
    if size := _decoder_size(config):
        text += f", ML-Decoder with {query_count(num_classes, size.groups)} queries"
    return text


def build_model(
    config: Config,
    num_classes: int,
    convention: Convention = KERAS,
    active: frozenset[str] | None = None,
) -> EfficientNet:
    """The network of a config; see EfficientNet.  Its shapes do not depend on the lineage."""
    return EfficientNet(
        variant=config.model.variant,
        num_classes=num_classes,
        decoder=_decoder_size(config),
        convention=convention,
        dropout=config.model.dropout,
        dtype=compute_dtype(config.model.compute_dtype),
        remat=config.model.remat,
        statistics_axis=AXIS if config.model.sync_batch_norm else None,
        active=active,
    )


def variables_shape(config: Config, num_classes: int, mesh: Mesh) -> dict:
    """{params, batch_stats} of the network as shapes, replicated over the mesh; no memory."""
    model, size = build_model(config, num_classes), image_size(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return _with_sharding(dict(shapes), replicated(mesh))


def fresh_state(variables: dict, phase_plan: PlannedPhase) -> TrainState:
    """The state at the start of a phase: these variables, a new optimiser's state and, where the
    phase averages what it trains, the average of these variables alone."""
    params = variables["params"]
    leaves, _ = partition(params, trainable_paths(params, phase_plan.phase))
    opt_state = _optimizer(phase_plan, params).init(leaves)
    # Copies, because one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, ema_leaves(variables, phase_plan.phase))
    return make_state(variables, opt_state, phase_plan.start, ema)


def ema_leaves(variables: dict, phase: Phase) -> EmaState:
    """Those of the variables (or of their shapes) that the phase averages; none without `ema`."""
    if not phase.ema:
        return NO_EMA
    trainable = trainable_paths(variables["params"], phase)
    leaves, _ = partition(variables["params"], trainable)
    active = active_modules(trainable, phase)
    return EmaState(leaves, changed_statistics(variables["batch_stats"], active))


def state_shape(variables: dict, phase_plan: PlannedPhase, mesh: Mesh) -> Any:
    """The state of a phase as shapes, replicated over the mesh, from the shapes of variables."""
    state = jax.eval_shape(partial(fresh_state, phase_plan=phase_plan), variables)
    return _with_sharding(state, replicated(mesh))


def batch_shape(config: Config, num_classes: int, mesh: Mesh) -> Batch:
    """A training batch as shapes, its rows spread over the mesh."""
    rows, size = config.data.batch_size, image_size(config)
    batch = Batch(
        image=jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8),
        label=jax.ShapeDtypeStruct((rows, num_classes), jnp.int8),
        position=jax.ShapeDtypeStruct((rows,), jnp.uint32),
    )
    return _with_sharding(batch, sharded(mesh))


def step_program(
    config: Config,
    num_classes: int,
    pretrained_config: PretrainedConfig,
    phase_plan: PlannedPhase,
    mesh: Mesh,
    variables: dict | None = None,
    frequencies: Sequence[float] | np.ndarray | None = None,
    schedule: MakeSchedule = make_schedule,
) -> Program:
    """The training step of a phase: (state, batch) -> (state, metrics); see make_train_step.

    `variables` is what `variables_shape` gives, where it is there already; for `frequencies`, of
    the classes in train, see make_loss; `schedule` makes that of each group's rate.
    """
    variables = variables or variables_shape(config, num_classes, mesh)
    trainable = trainable_paths(variables["params"], phase_plan.phase)
    active = active_modules(trainable, phase_plan.phase)
    step = make_train_step(
        build_model(config, num_classes, pretrained_config.convention, active),
        _optimizer(phase_plan, variables["params"], schedule),
        trainable,
        step_inputs(config, pretrained_config.normalization),
        make_loss(config.loss, num_classes, frequencies),
        config.seed,
        mesh,
        phase_plan.phase.accumulate,
        _decay(phase_plan),
        config.train.on_nan == "skip",
    )
    shapes = state_shape(variables, phase_plan, mesh), batch_shape(config, num_classes, mesh)
    return Program(step, shapes)


def forward_program(
    config: Config,
    num_classes: int,
    pretrained_config: PretrainedConfig,
    batch_size: int,
    mesh: Mesh,
    variables: dict | None = None,
) -> Program:
    """The evaluation of a batch: (variables, images) -> logits; see make_eval_step.

    With num_classes=0, what the head takes instead; the variables may hold a head all the same.
    `variables` is what `variables_shape` gives, where it is there already.
    """
    model = build_model(config, num_classes, pretrained_config.convention)
    images = jax.ShapeDtypeStruct(
        (batch_size, image_size(config), image_size(config), 3), jnp.uint8, sharding=sharded(mesh)
    )
    predict = make_eval_step(model, pretrained_config.normalization, mesh)
    variables = variables or variables_shape(config, num_classes, mesh)
    return Program(predict, (variables, images))


def feature_step_program(
    config: Config,
    num_classes: int,
    phase_plan: PlannedPhase,
    images: int,
    mesh: Mesh,
    variables: dict,
    frequencies: Sequence[float] | np.ndarray | None = None,
) -> Program:
    """The steps of a phase with cached features: (state, features, chunk) -> (state, metrics).

    See make_feature_step.

    Args:
        config: of the run.
        num_classes: of the head.
        phase_plan: the phase; its cached_views is how many features an image has.
        images: of the training split.
        mesh: of all devices.
        variables: what `variables_shape` gives.
        frequencies: of the classes in train; see make_loss.
    """
    trainable = trainable_paths(variables["params"], phase_plan.phase)
    step = make_feature_step(
        build_model(config, num_classes),
        _optimizer(phase_plan, variables["params"]),
        trainable,
        make_loss(config.loss, num_classes, frequencies),
        config.seed,
        mesh,
        phase_plan.phase.accumulate,
        _decay(phase_plan),
        config.train.on_nan == "skip",
    )
    each, views = head_input(config, variables), phase_plan.phase.cached_views
    rows = phase_plan.chunk_steps(config.log_every), config.data.batch_size
    features = Features(
        inputs=jax.ShapeDtypeStruct((images, views, *each.shape), each.dtype),
        label=jax.ShapeDtypeStruct((images, num_classes), jnp.int8),
    )
    chunk = FeatureChunk(
        row=jax.ShapeDtypeStruct(rows, jnp.int32), position=jax.ShapeDtypeStruct(rows, jnp.uint32)
    )
    state = state_shape(variables, phase_plan, mesh)
    features = _with_sharding(features, replicated(mesh))
    return Program(step, (state, features, _with_sharding(chunk, chunk_sharding(mesh))))


def classify_program(
    config: Config, num_classes: int, images: int, mesh: Mesh, variables: dict
) -> Program:
    """Of what the head takes to logits, on every device: (variables, inputs) -> logits."""
    classify = make_classify(build_model(config, num_classes), config.data.eval_batch_size, mesh)
    each = head_input(config, variables)
    inputs = jax.ShapeDtypeStruct((images, *each.shape), each.dtype, sharding=replicated(mesh))
    return Program(classify, (variables, inputs))


def head_input(config: Config, variables: dict) -> jax.ShapeDtypeStruct:
    """What the head takes of one image, see EfficientNet.head_inputs, without tracing it.

    Args:
        config: of the run.
        variables: of the network, or their shapes.
    """
    channels = variables["params"]["backbone"]["top"]["conv"]["kernel"].shape[-1]
    if config.model.head == "gap":
        return jax.ShapeDtypeStruct((channels,), jnp.float32)
    side = -(-image_size(config) // STRIDE)
    return jax.ShapeDtypeStruct((side, side, channels), compute_dtype(config.model.compute_dtype))


def _decoder_size(config: Config) -> DecoderSize | None:
    model = config.model
    if model.head == "gap":
        return None
    return DecoderSize(groups=model.decoder_groups, width=model.decoder_width)


def step_inputs(config: Config, by: Normalization) -> Inputs:
    """From a batch to what the step takes, mixed in pairs where the config says so."""
    inputs = make_inputs(by)
    if not mixes(config.augment):
        return inputs
    return make_mixed_inputs(inputs, config.augment, config.seed)


def _optimizer(phase_plan: PlannedPhase, params: dict, schedule: MakeSchedule = make_schedule):
    """Of a phase, from the parameters or their shapes."""
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


def _with_sharding(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
