"""The training step: a pure function of state and batch, jitted over all devices.

Data parallelism is `jax.shard_map` over a mesh of one axis.  The state is replicated and the batch
is sharded.  One all-reduce sums the loss, the number of known labels, the trainable gradients and
the statistics of the normalisations that train.
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
from mlcls_jax.step.custom_network import CustomNetwork
from mlcls_jax.step.ema import NO_EMA, Decay, EmaState, update_ema
from mlcls_jax.step.losses import Loss, known_sum
from mlcls_jax.step.param_tree import flatten, unflatten
from mlcls_jax.system.devices import AXIS, replicated

AnyNetwork = EfficientNet | CustomNetwork  # what `build_model` returns


@struct.dataclass
class TrainState:
    """Everything that a step reads and writes.

    The totals of the training loss are kept on the device, so that steps need no transfer and a
    resumed run reports the same mean as an uninterrupted one.

    Attributes:
        step: int32, steps of the run so far, over all phases.
        params: nested tree of all parameters.
        batch_stats: nested tree of the running statistics of all normalisations.
        opt_state: state of the optimiser, over the trainable leaves.
        loss_sum: float32, sum of the losses since the last evaluation.
        label_count: float32, number of known labels since the last evaluation.
        ema: averages of what the phase trains; NO_EMA without them.
    """

    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: optax.OptState
    loss_sum: jax.Array
    label_count: jax.Array
    ema: EmaState = NO_EMA


def make_state(
    variables: dict, opt_state: optax.OptState, step: int, ema: EmaState = NO_EMA
) -> TrainState:
    """Returns a state with totals of 0.

    Args:
        variables: nested trees {params, batch_stats}.
        opt_state: state of the optimiser.
        step: steps of the run so far.
        ema: averages of what the phase trains.
    """
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
    """Returns the trainable and the frozen leaves of a nested tree, as flat {path: array}."""
    leaves = flatten(params)
    return (
        {path: leaf for path, leaf in leaves.items() if path in trainable},
        {path: leaf for path, leaf in leaves.items() if path not in trainable},
    )


def normalize(
    images: UInt8[Array, "batch height width channel"], normalization: Normalization
) -> Float[Array, "batch height width channel"]:
    """Returns (images - mean) / std per channel, in float32."""
    mean, std = (np.asarray(x, np.float32) for x in (normalization.mean, normalization.std))
    return (images.astype(jnp.float32) - mean) / std


# A batch -> (normalised images, float32 [row, size, size, channel]; labels, float32 [row,
# class], in [0, 1] or UNKNOWN).
Inputs = Callable[[Batch], tuple[jax.Array, jax.Array]]


def make_inputs(normalization: Normalization) -> Inputs:
    """Returns the function from a batch to its normalised images and its labels.

    Args:
        normalization: mean and standard deviation that the weights expect.
    """

    def inputs(batch: Batch) -> tuple[jax.Array, jax.Array]:
        return normalize(batch.image, normalization), batch.label.astype(jnp.float32)

    return inputs


def make_train_step(
    model: AnyNetwork,
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
    """Returns a jitted `step(state, batch) -> (state, {"loss", "grad_norm"})`.

    The old state is donated.  The loss is the mean over the known labels of the whole batch, and
    grad_norm is the global norm of the trainable gradients before clipping.

    Args:
        model: the network, with `active` set to the modules that behave as in training.
        optimizer: over the flat {path: array} of the trainable leaves.
        trainable: paths of those leaves.
        inputs: see Inputs.
        loss: of each image and class, see losses.py.
        seed: of dropout and drop path, which depend only on the seed and the position of the image.
        mesh: of all devices; the batch is spread over it.
        accumulate, decay, skip: see `make_update`.
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
    """Returns `step(state, batch) -> (state, {"loss", "grad_norm"})` for `over_devices`.

    It is the common part of the steps on images and on features, and does not depend on the
    structure of a batch.

    Args:
        forward: (trainable leaves, frozen leaves, batch_stats, batch) -> (sum of the losses,
            (number of known labels, changed statistics as flat {path: array})), for the rows of one
            device.
        optimizer: over the flat {path: array} of the trainable leaves.
        trainable: paths of those leaves.
        mesh: of all devices; the batch is spread over it.
        accumulate: number of equal parts of a device's rows that are computed one after the other.
            Their gradients are summed for one update, and only the activations of one part are in
            memory.  Except for rounding, the result is that of `accumulate` times as many devices:
            normalisations that train use the statistics of each part, and their running statistics
            become the mean over the parts.
        decay: decay of the EMA by step; None if the state has no EMA.
        skip: whether a step with a loss or gradient norm that is not finite changes nothing except
            the number of the step.  The metrics then contain a bool "skipped".  This takes memory
            for up to a second copy of what an update changes.
    """

    def step(state: TrainState, batch: Any):
        leaves, frozen = partition(state.params, trainable)
        gradient = jax.value_and_grad(forward, has_aux=True)

        def compute_rows(rows: Any):
            return gradient(leaves, frozen, state.batch_stats, rows)

        (loss_sum, (count, stats)), grads = sum_of_parts(compute_rows, batch, accumulate)
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
        return _skip_if_not_finite(state, after, metrics) if skip else (after, metrics)

    return step


def _skip_if_not_finite(
    before: TrainState, after: TrainState, metrics: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns `after` if its metrics are finite, otherwise `before` with the next step number.

    All devices decide alike, because they have the same metrics.
    """
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return old if new is old else jnp.where(finite, new, old)  # not for frozen leaves

    state = jax.tree.map(chosen, after, dataclasses.replace(before, step=after.step))
    return state, metrics | {"skipped": ~finite}


def sum_of_parts(function: Callable[[Any], Any], batch: Any, parts: int) -> Any:
    """Returns the sum of a function over equal parts of the rows, computed in a loop.

    Args:
        function: maps a batch of rows to a pytree of float32 arrays.
        batch: pytree of arrays [row, ...].
        parts: number of parts, a divisor of the number of rows.
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
    """Returns a function jitted over a mesh.

    Args:
        function: the computation of one device.
        in_specs, out_specs: see `jax.shard_map`.
        mesh: of all devices.
        options: further arguments of `jax.jit`.
    """
    # With check_vma, the gradient of replicated parameters would already be summed over the axis.
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, compiler_options=_compiler_options(mesh), **options)


def make_eval_step(
    model: AnyNetwork, normalization: Normalization, mesh: Mesh
) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns a jitted `logits(variables, images)` for evaluation.

    It maps uint8 images [image, size, size, channel], spread over the mesh, to float32 logits
    [image, class] on every device.

    Args:
        model: the network.
        normalization: mean and standard deviation that the weights expect.
        mesh: of all devices.
    """

    def logits(variables, images):
        return model.apply(variables, normalize(images, normalization), train=False)

    return over_devices(logits, (P(), P(AXIS)), P(AXIS), mesh, out_shardings=replicated(mesh))


def _sum(tree: Any, mesh: Mesh) -> Any:
    """Returns the sum of float32 leaves over the mesh.

    They become one vector, because compilers limit the arrays or bytes of one all-reduce.
    """
    if mesh.size == 1:
        return tree
    vector, restore = ravel_pytree(tree)
    return restore(jax.lax.psum(vector, AXIS))


def _compiler_options(mesh: Mesh) -> dict[str, int]:
    """Returns options for 512-bit vectors on CPUs that have them; XLA's default is 256 bits."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_cpu_prefer_vector_width": 512} if on_cpu else {}


def changed_statistics(batch_stats: Any, active: frozenset[str] | None) -> dict:
    """Returns the running statistics of the normalisations that train; others do not change.

    Args:
        batch_stats: nested tree of statistics.
        active: paths of the modules that behave as in training; None means all.

    Returns:
        A flat {path: array}.
    """
    return {
        path: leaf
        for path, leaf in flatten(batch_stats).items()
        if active is None or path.rsplit("/", 1)[0] in active
    }
