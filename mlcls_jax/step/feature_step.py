"""Steps over cached features: several in one call, as a scan over shuffled rows of one table.

The state, the loss, the dropout and the update are those of `train_step`; only the backbone is
missing, whose result for each image is in the table.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.step.ema import Decay
from mlcls_jax.step.losses import Loss, known_sum
from mlcls_jax.step.param_tree import unflatten
from mlcls_jax.step.train_step import TrainState, make_update, over_devices
from mlcls_jax.system.devices import AXIS


@struct.dataclass
class Features:
    """What is left of the training images: arrays on every device, or their shapes."""

    # What the head takes, [image, view, ...]: of the plain image, then of the mirrored one.
    inputs: Any
    label: Any  # int8 [image, class]: 1, 0 or UNKNOWN


@struct.dataclass
class FeatureChunk:
    """Several batches of one call: arrays on the host or on the devices, or their shapes."""

    row: Any  # int32 [step, batch]: image * views + view; NO_STEP where there is no step
    position: Any  # uint32 [step, batch]: place in the endless stream of the run


NO_STEP = -1


def chunk_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a chunk: the rows of each batch over the axis."""
    return NamedSharding(mesh, _CHUNK)


def make_feature_step(
    model: EfficientNet,
    optimizer: optax.GradientTransformation,
    trainable: frozenset[str],
    loss: Loss,
    seed: int,
    mesh: Mesh,
    accumulate: int = 1,
    decay: Decay | None = None,
    skip: bool = False,
) -> Callable[[TrainState, Features, FeatureChunk], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `steps(state, features, chunk) -> (state, {"loss", "grad_norm"})`.

    The old state is donated; the metrics have one value per step of the chunk, and those of rows
    NO_STEP mean nothing: such a step is computed and leaves the state as it was.  So one program
    of one length takes any number of steps, each with the same bits whatever chunk it is in, and
    its loop knows its length, for which no accelerator has to ask its host.

    Args:
        model: the network; its head alone is applied.
        optimizer: over the flat {path: array} of the trainable leaves.
        trainable: paths of those leaves, all under head/.
        loss: of each class, see losses.py.
        seed: of dropout, which is a function of (seed, image's position).
        mesh: whose axis the rows of each batch are sharded over.
        accumulate, decay, skip: see make_update.
    """

    def forward(leaves, frozen, _, batch):
        inputs, label, position = batch
        logits: Any = model.apply(
            {"params": unflatten(leaves | frozen)},
            inputs,
            train=True,
            example=position,
            rngs={"dropout": jax.random.key(seed)},
            method=EfficientNet.classify,
        )
        labels = label.astype(jnp.float32)
        loss_sum, count = known_sum(loss(logits, labels), labels)
        return loss_sum, (count, {})

    update = make_update(forward, optimizer, trainable, mesh, accumulate, decay, skip)

    def steps(state: TrainState, features: Features, chunk: FeatureChunk):
        views = features.inputs.shape[1]

        def one(before: TrainState, rows: FeatureChunk):
            image, view = jnp.divmod(rows.row, views)
            batch = features.inputs[image, view], features.label[image], rows.position
            after, metrics = update(before, batch)
            taken = rows.row[0] != NO_STEP
            return jax.tree.map(lambda new, old: jnp.where(taken, new, old), after, before), metrics

        # The loop carries what changes, and the backbone goes around it.
        head = dataclasses.replace(state, params={"head": state.params["head"]}, batch_stats={})
        head, metrics = jax.lax.scan(one, head, chunk)
        params = state.params | head.params
        return dataclasses.replace(head, params=params, batch_stats=state.batch_stats), metrics

    return over_devices(steps, (P(), P(), _CHUNK), (P(), P()), mesh, donate_argnums=0)


def make_classify(
    model: EfficientNet, rows: int, mesh: Mesh
) -> Callable[[dict, jax.Array], jax.Array]:
    """Builds `logits(variables, inputs)`: what the head takes [image, ...] to float32 logits
    [image, class], both on every device, as in evaluation.

    Each device computes its share of `rows` images at a time: a decoder's activations of all of
    them would not fit.
    """
    share = rows // mesh.size

    def logits(variables, inputs):
        head = {"params": {"head": variables["params"]["head"]}}
        first = jax.lax.axis_index(AXIS) * share
        last = len(inputs) - 1

        def one(begin):
            # Past the end, the last image again: of one shape, and cut off below.
            row = jnp.minimum(begin + first + jnp.arange(share), last)
            return model.apply(head, inputs[row], method=EfficientNet.classify)

        parts = jax.lax.map(one, jnp.arange(0, len(inputs), rows))
        parts = jax.lax.all_gather(parts, AXIS, axis=1, tiled=True)
        return parts.reshape(-1, parts.shape[-1])[: len(inputs)]

    return over_devices(logits, (P(), P()), P(), mesh)


_CHUNK = P(None, AXIS)
