"""The features of a run's images: whether they fit, how they are made, in which order they train.

A phase that trains the head alone needs the backbone's result for each image only once.  It is
computed in one pass, on every device from then on, and the phase's steps and evaluations read it.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.threads import Reader, Rows
from mlcls_jax.data.sampling import stream_order, substitutes
from mlcls_jax.evaluation.inference import EvalSpec, predict_batches
from mlcls_jax.step.feature_step import NO_STEP, FeatureChunk, Features
from mlcls_jax.step.network import NetworkSpec, head_input
from mlcls_jax.step.optimizer import trainable_paths
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.system.console import console, format_bytes, print_warning
from mlcls_jax.system.devices import free_memory, is_first_process, replicate, sharded
from mlcls_jax.system.signals import Stop
from mlcls_jax.system.threads import StoppedError

# Of the free memory: evaluations of later phases, and the system, need some as well.
_SHARE = 0.5


def with_room(
    plan: list[PlannedPhase],
    splits: dict[str, LabelTable],
    variables: dict,
    network: NetworkSpec,
    mesh: jax.sharding.Mesh,
    sampled: int,
) -> list[PlannedPhase]:
    """The plan, with cached_views=0 and a warning where the features would not fit the devices.

    Args:
        plan: all phases.
        splits: of the run.
        variables: shapes of the network's.
        network: settings of the network.
        sampled: number of training images that each evaluation scores as well.
        mesh: of all devices, before anything large is on them.

    Raises:
        ValueError: a phase with cached views that trains parameters outside the head.
    """
    cached = [phase_plan for phase_plan in plan if phase_plan.phase.cached_views]
    for phase_plan in cached:
        _check_frozen(phase_plan, variables["params"])
    free = _free_everywhere(mesh) if cached else 0.0
    occupied = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables))
    each = head_input(network, variables)
    return [_with_room(phase_plan, splits, each, sampled, occupied, free) for phase_plan in plan]


def _check_frozen(phase_plan: PlannedPhase, params: dict) -> None:
    paths = sorted(trainable_paths(params, phase_plan.phase))
    others = [path for path in paths if not path.startswith("head/")]
    if others:
        raise ValueError(
            f"config: phase {phase_plan.phase.name!r} has "
            f"cached_views={phase_plan.phase.cached_views}, "
            f"but its groups train {len(others)} arrays of the backbone, such as {others[0]}; "
            "leave the backbone out of its groups, or set cached_views=0"
        )


def _with_room(
    phase_plan: PlannedPhase,
    splits: dict[str, LabelTable],
    each: jax.ShapeDtypeStruct,
    sampled: int,
    network: int,
    free: float,
) -> PlannedPhase:
    phase = phase_plan.phase
    needed = feature_bytes(splits, phase.cached_views, each, sampled)
    if not phase.cached_views or needed + network <= _SHARE * free:
        return phase_plan
    print_warning(
        f"{phase.name}: features would take {format_bytes(needed)} on each device, next to "
        f"{format_bytes(network)} of the network; that is more than half of the free "
        f"{format_bytes(free)}, so the phase uses cached_views=0 and computes them in each step"
    )
    return dataclasses.replace(phase_plan, phase=dataclasses.replace(phase, cached_views=0))


def feature_bytes(
    splits: dict[str, LabelTable], views: int, each: jax.ShapeDtypeStruct, sampled: int = 0
) -> int:
    """Bytes that a phase's features and labels take on each device; `each` is of one view, and
    `sampled` the number of training images that are evaluated."""
    train, val = splits["train"], splits["val"]
    bytes_each = each.size * each.dtype.itemsize
    return bytes_each * (views * len(train) + len(val) + sampled) + train.labels.nbytes


def make_features(
    head_inputs: Callable[[dict, jax.Array], jax.Array],
    variables: dict,
    each: jax.ShapeDtypeStruct,
    splits: dict[str, LabelTable],
    phase_plan: PlannedPhase,
    spec: EvalSpec,
    mesh: jax.sharding.Mesh,
    readers: dict[str, Reader],
    stop: Stop,
) -> tuple[Features, jax.Array]:
    """One pass over the training and the validation images; says how large and how long it is.

    Args:
        head_inputs: (variables, images) -> what the head takes, [image, ...], on every device.
        variables: on every device.
        each: shape of what the head takes of one image.
        splits: of the run.
        phase_plan: the phase.
        spec: batch size of the pass, image size and resize.
        mesh: over whose axis the images are spread.
        readers: of both splits; features of one that is skipped mean nothing.
        stop: ends the pass.

    Returns:
        On every device: the training features, and what the head takes of the validation images,
        [image, ...], as they are evaluated.

    Raises:
        StoppedError: stop was set before the last image.
        ValueError: an image that cannot be read.
    """
    train, val, views = splits["train"], splits["val"], phase_plan.phase.cached_views
    size = feature_bytes(splits, views, each)
    seen = "plain and mirrored, not augmented" if views == 2 else "plain, not augmented"
    console.print(
        f"{phase_plan.phase.name}: one pass for the features of {len(train)} training images "
        f"({seen}) and {len(val)} validation images, {format_bytes(size)} on each device"
    )
    began = time.perf_counter()
    # Whole images, whatever part of them evaluation looks at.
    squash = dataclasses.replace(spec.augment, eval_resize="squash")
    as_trained = dataclasses.replace(spec, augment=squash)
    of_views = partial(_views, head_inputs, jax.jit(_mirror, out_shardings=sharded(mesh)), views)
    of_train = _collect(of_views, variables, train.paths, as_trained, mesh, readers["train"], stop)
    of_val = _collect(head_inputs, variables, val.paths, spec, mesh, readers["val"], stop)
    features = replicate((Features(of_train, train.labels), of_val), mesh)
    seconds = time.perf_counter() - began
    rate = (views * len(train) + len(val)) / seconds
    console.print(f"{phase_plan.phase.name}: features in {seconds:.1f} s, {rate:.1f} images/s")
    return features


def with_sample(features: Features, of_val: jax.Array, sample: np.ndarray) -> jax.Array:
    """What the head takes of the validation images, and after them of sampled training images,
    as they are without a mirror, [image, ...], on every device.

    Args:
        features: of the training images.
        of_val: of the validation images.
        sample: rows of the training images.
    """
    if not len(sample):
        return of_val
    join = jax.jit(
        lambda inputs, of_val, rows: jnp.concatenate([of_val, inputs[rows, 0]]),
        out_shardings=of_val.sharding,
    )
    return join(features.inputs, of_val, sample.astype(np.int32))


def feature_chunks(
    readable: np.ndarray,
    phase_plan: PlannedPhase,
    *,
    first_step: int,
    steps: int,
    rows: Rows,
    seed: int,
) -> Iterator[FeatureChunk]:
    """Yields this process's rows of the batches of steps first_step to the phase's end, on the
    host, `steps` in a chunk; a chunk ends at an evaluation and is filled up with NO_STEP.

    The order is that of `train_batches`, which also replaces what is not readable (bool [image])
    by the same other images.  With two views, half of the images of an epoch are
    mirrored: those with odd places in another permutation, a function of (seed, epoch), so that
    the view is one of (seed, epoch, index).  It is not the flip that `train_batches` draws.
    """
    views, images = phase_plan.phase.cached_views, len(readable)
    for end in [evaluation for evaluation in phase_plan.evaluations if evaluation > first_step]:
        for begin in range(first_step, end, steps):
            step = np.arange(begin, begin + steps, dtype=np.int64)[:, None]
            position = step * rows.batch_size + rows.start + np.arange(rows.count)
            epoch, index = stream_order(position.ravel(), images, seed)
            for at in np.flatnonzero(~readable[index]):
                others = substitutes(seed, int(epoch[at]), int(index[at]), images)
                index[at] = next(other for other in others if readable[other])
            view = np.zeros_like(index)
            if views > 1:  # seeds end below 2**31: this order is no other run's
                view = stream_order(epoch * images + index, images, seed + 2**31)[1] % views
            row = (index * views + view).reshape(position.shape)
            yield FeatureChunk(
                row=np.where(step < end, row, NO_STEP).astype(np.int32),
                position=position.astype(np.uint32),
            )
        first_step = end


def _collect(
    predict: Callable,
    variables: dict,
    paths: Sequence[str],
    spec: EvalSpec,
    mesh: jax.sharding.Mesh,
    reader: Reader,
    stop: Stop,
) -> np.ndarray:
    """The outputs of all images; StoppedError if stop was set before the last."""
    title, begin = "features" if is_first_process() else "", 0
    whole: Any = None
    for part in predict_batches(predict, variables, paths, spec, mesh, reader, title):
        if stop.is_set():
            raise StoppedError
        if whole is None:  # in place: feature maps may fill half of the memory
            whole = np.empty((len(paths), *part.shape[1:]), part.dtype)
        whole[begin : begin + len(part)] = part
        begin += len(part)
    return whole


def _views(
    head_inputs: Callable, mirror: Callable, views: int, variables: dict, images
) -> jax.Array:
    """[image, view, ...]; one call per view, so that memory is that of one."""
    of_each = [head_inputs(variables, images)]
    if views == 2:
        of_each.append(head_inputs(variables, mirror(images)))
    return jnp.stack(of_each, axis=1)


def _mirror(images: jax.Array) -> jax.Array:
    return images[:, :, ::-1]


def _free_everywhere(mesh: jax.sharding.Mesh) -> float:
    """The least free memory of a device in any process: all of them have to decide alike."""
    free: Any = np.float32(free_memory(mesh))
    if jax.process_count() > 1:
        free = np.min(multihost_utils.process_allgather(free))
    return float(free)
