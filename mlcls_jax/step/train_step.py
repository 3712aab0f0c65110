"""The step: a pure function of (state, batch), jitted once over all devices.

Data parallelism is `jax.shard_map` over a mesh of one axis: state replicated, batch sharded, and
one all-reduce of everything that has to be summed (loss, label count, trainable gradients and,
where normalisations train, their statistics).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from mlcls_jax.data.batch import Batch
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.step.ema import NO_EMA, Decay, EmaState, update_ema
from mlcls_jax.step.losses import Loss, known_sum
from mlcls_jax.step.param_tree import flatten, unflatten
from mlcls_jax.system.devices import AXIS, replicated


@struct.dataclass
class TrainState:
    """Everything that a step reads and writes.

    The running totals of the training loss live here, on the device, so that an epoch needs no
    transfer for them and a resumed epoch reports the same mean as an uninterrupted one.
    """

    step: jax.Array  # int32, over all phases
    params: dict
    batch_stats: dict
    opt_state: optax.OptState
    loss_sum: jax.Array  # float32, since the last evaluation
    label_count: jax.Array  # float32, known labels since the last evaluation
    ema: EmaState = NO_EMA  # of what the phase trains


def make_state(
    variables: dict, opt_state: optax.OptState, step: int, ema: EmaState = NO_EMA
) -> TrainState:
    """A state with these variables and no running totals yet."""
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=opt_state,
        loss_sum=jnp.zeros((), jnp.float32),
        label_count=jnp.zeros((), jnp.float32),
        ema=ema,
    )


def partition(params: dict, trainable: frozenset[str]) -> tuple[dict, dict]:
    """The trainable and the frozen leaves of a nested tree, each as a flat {path: array}."""
    leaves = flatten(params)
    return (
        {path: leaf for path, leaf in leaves.items() if path in trainable},
        {path: leaf for path, leaf in leaves.items() if path not in trainable},
    )


def normalize(
    images: UInt8[Array, "batch height width 3"], by: Normalization
) -> Float[Array, "batch height width 3"]:
    """(images - mean) / std per colour, in float32."""
    pixels = images.astype(jnp.float32)
    return (pixels - np.asarray(by.mean, np.float32)) / np.asarray(by.std, np.float32)


# A batch -> (normalised images, float32 [row, size, size, 3]; labels, float32 [row, class], of
# which all are in [0, 1] but UNKNOWN ones).
Inputs = Callable[[Batch], tuple[jax.Array, jax.Array]]


def make_inputs(by: Normalization) -> Inputs:
    """The images of a batch, normalised by the numbers of the weights, and its labels."""

    def inputs(batch: Batch) -> tuple[jax.Array, jax.Array]:
        return normalize(batch.image, by), batch.label.astype(jnp.float32)

    return inputs


def make_train_step(
    model: EfficientNet,
    optimizer: optax.GradientTransformation,
    trainable: frozenset[str],
    inputs: Inputs,
    loss: Loss,
    seed: int,
    mesh: Mesh,
    accumulate: int = 1,
    decay: Decay | None = None,
    skip: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `step(state, batch) -> (state, {"loss", "grad_norm"})`; the old state is donated.

    Args:
        model: with `active` set to the modules that behave as in training.
        optimizer: over the flat {path: array} of the trainable leaves.
        trainable: paths of those leaves.
        inputs: from a batch to what the network and the loss take.
        loss: of each class, see losses.py.
        seed: of dropout and drop path, which are functions of (seed, image's position).
        mesh: whose axis the batch is sharded over.
        accumulate, decay, skip: see make_update.

    The loss is the mean over the known labels of the whole batch; grad_norm is the global norm of
    the trainable gradients, before clipping.
    """

    def forward(leaves, frozen, batch_stats, batch):
        variables = {"params": unflatten(leaves | frozen), "batch_stats": batch_stats}
        pixels, labels = inputs(batch)
        logits, updated = model.apply(
            variables,
            pixels,
            train=True,
            example=batch.position,
            rngs={"dropout": jax.random.key(seed)},
            mutable=["batch_stats"],
        )
        loss_sum, count = known_sum(loss(logits, labels), labels)
        return loss_sum, (count, changed_statistics(updated["batch_stats"], model.active))

    step = make_update(forward, optimizer, trainable, mesh, accumulate, decay, skip)
    return over_devices(step, (P(), P(AXIS)), (P(), P()), mesh, donate_argnums=0)


def make_update(
    forward: Callable[[dict, dict, dict, Any], tuple[jax.Array, tuple[jax.Array, dict]]],
    optimizer: optax.GradientTransformation,
    trainable: frozenset[str],
    mesh: Mesh,
    accumulate: int = 1,
    decay: Decay | None = None,
    skip: bool = False,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `step(state, batch) -> (state, {"loss", "grad_norm"})` as each device of a mesh runs
    it: what all steps share, whatever their batch is.

    Args:
        forward: (trainable leaves, frozen leaves, batch_stats, batch) -> (sum of the losses,
            (number of known labels, changed statistics as flat {path: array})) of a device's rows.
        optimizer: over the flat {path: array} of the trainable leaves.
        trainable: paths of those leaves.
        mesh: whose axis the batch is sharded over.
        accumulate: parts that a device's rows are taken in, one after the other, for one update
            with the sum of their gradients.  It needs the activations of one part only; but for
            rounding, the result is that of as many times the devices.  So each part normalises by
            its own rows where normalisations train, and their statistics become the mean of those
            that the parts would leave.
        decay: of the average in the state, by step; None: the state has none.
        skip: whether a step whose loss or gradient norm is not finite leaves everything but the
            step's number as it was; the metrics then have a bool "skipped" too.  It takes up to a
            second copy of what an update changes.
    """

    def step(state: TrainState, batch: Any):
        leaves, frozen = partition(state.params, trainable)
        gradient = jax.value_and_grad(forward, has_aux=True)

        def of_rows(rows: Any):
            return gradient(leaves, frozen, state.batch_stats, rows)

        (loss_sum, (count, stats)), grads = sum_of_parts(of_rows, batch, accumulate)
        loss_sum, count, stats, grads = _sum((loss_sum, count, stats, grads), mesh)
        known = jnp.maximum(count, 1.0)
        grads = {path: grad / known for path, grad in grads.items()}
        stats = {path: total / (mesh.size * accumulate) for path, total in stats.items()}
        updates, opt_state = optimizer.update(grads, state.opt_state, leaves)
        leaves: Any = optax.apply_updates(leaves, updates)
        ema = state.ema
        if decay:
            ema = update_ema(ema, leaves, stats, decay(state.step))
        after = TrainState(
            step=state.step + 1,
            params=unflatten(leaves | frozen),
            batch_stats=unflatten(flatten(state.batch_stats) | stats),
            opt_state=opt_state,
            loss_sum=state.loss_sum + loss_sum,
            label_count=state.label_count + count,
            ema=ema,
        )
        metrics = {"loss": loss_sum / known, "grad_norm": optax.tree.norm(grads)}
        return _unless_spoilt(state, after, metrics) if skip else (after, metrics)

    return step


def _unless_spoilt(
    before: TrainState, after: TrainState, metrics: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after a step, or where its metrics are not finite, the one before with the next
    step's number: the images go on.  The same on all devices, as the metrics are."""
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return old if new is old else jnp.where(finite, new, old)  # what is frozen has no choice

    state = jax.tree.map(chosen, after, dataclasses.replace(before, step=after.step))
    return state, metrics | {"skipped": ~finite}


def sum_of_parts(function: Callable[[Any], Any], batch: Any, parts: int) -> Any:
    """The sum of `function` of each of so many equal parts of the rows, in a loop.

    Args:
        function: of a batch of rows, to a pytree of float32 arrays.
        batch: pytree of arrays [row, ...].
        parts: that the number of rows divides by.
    """
    if parts == 1:
        return function(batch)
    rows = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)
    first = jax.tree.map(lambda leaf: leaf[0], rows)
    zeros = jax.tree.map(
        lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(function, first)
    )

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    total, _ = jax.lax.scan(add, zeros, rows)
    return total


def over_devices(
    function: Callable, in_specs: Any, out_specs: Any, mesh: Mesh, **options: Any
) -> Callable:
    """The function jitted over the mesh: shard_map with these specs, jit with these options."""
    # check_vma=False: with it on, grad of replicated parameters already sums over the axis.
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, compiler_options=_compiler_options(mesh), **options)


def make_eval_step(
    model: EfficientNet, normalization: Normalization, mesh: Mesh
) -> Callable[[dict, jax.Array], jax.Array]:
    """Builds `logits(variables, images)`: uint8 images to float32 logits on every device."""

    def logits(variables, images):
        return model.apply(variables, normalize(images, normalization), train=False)

    return over_devices(logits, (P(), P(AXIS)), P(AXIS), mesh, out_shardings=replicated(mesh))


def _sum(tree: Any, mesh: Mesh) -> Any:
    """The sum over the mesh's axis of float32 leaves: one vector, because compilers join only so
    many arrays, or bytes, into one all-reduce."""
    if mesh.size == 1:
        return tree
    vector, restore = ravel_pytree(tree)
    return restore(jax.lax.psum(vector, AXIS))


def _compiler_options(mesh: Mesh) -> dict[str, int]:
    """Full-width vectors where the CPU has them: XLA stops at 256 bits of its own accord."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_cpu_prefer_vector_width": 512} if on_cpu else {}


def changed_statistics(batch_stats: Any, active: frozenset[str] | None) -> dict:
    """The statistics of the normalisations that train: the others were not updated."""
    return {
        path: leaf
        for path, leaf in flatten(batch_stats).items()
        if active is None or path.rsplit("/", 1)[0] in active
    }
