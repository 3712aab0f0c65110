"""Training steps on cached features: several steps per call, scanning rows of one table.

The state, the loss, the dropout and the update are those of `train_step`.  The backbone is not
run, because its output for each image is in the table.
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
    """Cached features and labels of the training images, on every device, or their shapes.

    Attributes:
        inputs: inputs of the head, [image, view, ...]; the views are the symmetries from 0
            (data/images/symmetry.py): the plain image, then the mirrored one, and so on.
        label: as in Batch, [image, class].
    """

    inputs: Any
    label: Any


@struct.dataclass
class FeatureChunk:
    """The batches of one call: arrays on the host or on the devices, or their shapes.

    Attributes:
        row: int32 [step, batch], image * views + view; NO_STEP in unused steps.
        position: uint32 [step, batch], position in the stream of all training images of the run.
    """

    row: Any
    position: Any


NO_STEP = -1


def chunk_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a chunk: the rows of each batch are spread over the mesh."""
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
    """Returns a jitted `steps(state, features, chunk) -> (state, {"loss", "grad_norm"})`.

    The old state is donated.  The metrics have one value per step of the chunk.  Steps whose rows
    are NO_STEP are computed but leave the state unchanged, and their metrics are meaningless.
    Therefore one program of fixed length takes any number of steps, with the same bits in every
    chunk, and the accelerator need not ask the host for the length of the loop.

    Args:
        model: the network, of which only the head is applied.
        optimizer: over the flat {path: array} of the trainable leaves.
        trainable: paths of those leaves, all under head/.
        loss: of each image and class, see losses.py.
        seed: of dropout, which depends only on the seed and the position of the image.
        mesh: of all devices; the rows of each batch are spread over it.
        accumulate, decay, skip: see `make_update`.
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
            is_step = rows.row[0] != NO_STEP
            chosen = jax.tree.map(lambda new, old: jnp.where(is_step, new, old), after, before)
            return chosen, metrics

        # The loop carries only the head and the rest that changes, not the backbone.
        head = dataclasses.replace(state, params={"head": state.params["head"]}, batch_stats={})
        head, metrics = jax.lax.scan(one, head, chunk)
        params = state.params | head.params
        return dataclasses.replace(head, params=params, batch_stats=state.batch_stats), metrics

    return over_devices(steps, (P(), P(), _CHUNK), (P(), P()), mesh, donate_argnums=0)


def make_classify(
    model: EfficientNet, rows: int, mesh: Mesh
) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns a jitted `logits(variables, inputs)` that applies the head as in evaluation.

    Its inputs [image, ...] and its float32 result [image, class] are on every device.

    Args:
        model: the network, of which only the head is applied.
        rows: images per pass, over all devices, because a decoder's activations of all images may
            not fit in memory.
        mesh: of all devices.
    """
    share = rows // mesh.size

    def logits(variables, inputs):
        head = {"params": {"head": variables["params"]["head"]}}
        first = jax.lax.axis_index(AXIS) * share
        last = len(inputs) - 1

        def one(begin):
            # Rows past the end repeat the last image and are removed below.
            row = jnp.minimum(begin + first + jnp.arange(share), last)
            return model.apply(head, inputs[row], method=EfficientNet.classify)

        parts = jax.lax.map(one, jnp.arange(0, len(inputs), rows))
        parts = jax.lax.all_gather(parts, AXIS, axis=1, tiled=True)
        return parts.reshape(-1, parts.shape[-1])[: len(inputs)]

    return over_devices(logits, (P(), P()), P(), mesh)


_CHUNK = P(None, AXIS)
