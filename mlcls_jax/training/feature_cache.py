"""Cached features: the outputs of a frozen backbone, computed once and kept on the devices.

A phase that trains only the head needs the backbone's output for each image once. It is computed in
one pass and kept on every device; the steps and evaluations of the phase read it from there.
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

from mlcls_jax.data.images.symmetry import turned
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import Reader, Rows
from mlcls_jax.data.sampling import REPEAT, Repeats, stream_order, substitutes
from mlcls_jax.evaluation.inference import EvalSpec, predict_batches
from mlcls_jax.step.feature_step import NO_STEP, FeatureChunk, Features
from mlcls_jax.step.groups import trainable_paths
from mlcls_jax.step.network import NetworkSpec, head_input
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.system.console import console, format_bytes, print_warning
from mlcls_jax.system.devices import free_memory, is_first_process, replicate, sharded
from mlcls_jax.system.signals import Stop
from mlcls_jax.system.threads import StoppedError
from mlcls_jax.training.pool import ImagePool

# Features may take this share of the free memory; evaluations and the system need some as well.
_MAX_SHARE = 0.5


def with_room(
    plan: list[PlannedPhase],
    splits: dict[str, LabelTable],
    variables: dict,
    network: NetworkSpec,
    mesh: jax.sharding.Mesh,
    sampled: int,
) -> list[PlannedPhase]:
    """Returns the plan, with cached_views=0 in phases whose features do not fit on the devices.

    Each such phase causes a warning.

    Args:
        plan: all phases.
        splits: label tables of the run.
        variables: shapes of the variables of the network.
        network: settings of the network.
        mesh: mesh of all devices, before anything large is on them.
        sampled: number of training images that each evaluation scores as well.

    Raises:
        ValueError: a phase with cached views trains parameters outside the head.
    """
    cached = [phase_plan for phase_plan in plan if phase_plan.phase.cached_views]
    if not cached:
        return plan
    for phase_plan in cached:
        _check_frozen(phase_plan, variables["params"])
    free = _free_everywhere(mesh)
    occupied = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables))
    each = head_input(network, variables)
    return [_with_room(phase_plan, splits, each, sampled, occupied, free) for phase_plan in plan]


def _check_frozen(phase_plan: PlannedPhase, params: dict) -> None:
    """Raises ValueError if a phase with cached views trains parameters outside the head."""
    paths = sorted(trainable_paths(params, phase_plan.phase))
    others = [path for path in paths if not path.startswith("head/")]
    if others:
        raise ValueError(
            f"config: phase {phase_plan.phase.name!r} has "
            f"cached_views={phase_plan.phase.cached_views}, "
            f"but its groups train {len(others)} arrays of the backbone, such as {others[0]}; "
            "remove the backbone from its groups, or set cached_views=0"
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
    if not phase.cached_views or needed + network <= _MAX_SHARE * free:
        return phase_plan
    print_warning(
        f"{phase.name}: features would take {format_bytes(needed)} on each device, in addition to "
        f"{format_bytes(network)} for the network; that is more than half of the free "
        f"{format_bytes(free)}, so the phase uses cached_views=0 and computes them in each step"
    )
    return dataclasses.replace(phase_plan, phase=dataclasses.replace(phase, cached_views=0))


def feature_bytes(
    splits: dict[str, LabelTable], views: int, each: jax.ShapeDtypeStruct, sampled: int = 0
) -> int:
    """Returns the bytes that the features and labels of a phase take on each device.

    Args:
        splits: label tables of the run.
        views: views per training image, 1 to 8.
        each: shape and dtype of the features of one view.
        sampled: number of training images that each evaluation scores as well.
    """
    train, val = splits["train"], splits["val"]
    bytes_each = each.size * each.dtype.itemsize
    return bytes_each * (views * len(train) + len(val) + sampled) + train.train_labels.nbytes


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
    pool: ImagePool | None = None,
) -> tuple[Features, jax.Array]:
    """Computes the features of the training and validation images in one pass.

    Its size and duration are printed.  With a pool, the first run of it computes them for all
    images, and the others take theirs from it.

    Args:
        head_inputs: (variables, images) -> the inputs of the head, [image, ...], on every device.
        variables: on every device.
        each: shape and dtype of the inputs of the head for one image.
        splits: label tables of the run.
        phase_plan: the phase.
        spec: batch size of the pass, image size and resizing.
        mesh: the images are sharded over its axis.
        readers: image reader per split; the features of skipped images are meaningless.
        stop: ends the pass when set.
        pool: the images of all folds, if no phase has changed the backbone; None for another run.

    Returns:
        On every device: the training features, and the inputs of the head for the validation
        images, [image, ...].

    Raises:
        StoppedError: stop was set before the last image.
        ValueError: an image cannot be read and must not be skipped.
    """
    train, val, views = splits["train"], splits["val"], phase_plan.phase.cached_views
    size = feature_bytes(splits, views, each)
    key = "features", phase_plan.phase.name
    if pool is None or (*key, "train") not in pool.made:
        kind = {1: "plain", 2: "plain and mirrored"}.get(views, f"{views} symmetric images of each")
        all_folds = " of all folds" if pool else ""
        console.print(
            f"{phase_plan.phase.name}: one pass for the features{all_folds} of {len(train)} "
            f"training images ({kind}, not augmented) and {len(val)} validation images, "
            f"{format_bytes(size)} on each device"
        )
    else:
        console.print(f"{phase_plan.phase.name}: features of the other folds")
    began = time.perf_counter()
    # Training images are resized as in training, even if evaluation crops them.
    resize = spec.augment.train_resize
    resize = "squash" if resize == "random_crop" else resize
    augment = dataclasses.replace(spec.augment, eval_resize=resize)
    train_spec = dataclasses.replace(spec, augment=augment)
    turn = jax.jit(turned, static_argnums=1, out_shardings=sharded(mesh))
    view_inputs = partial(_views, head_inputs, turn, views)
    pass_over = partial(_collect, variables=variables, mesh=mesh, stop=stop)

    def collect(split: str, predict: Callable, spec: EvalSpec, paths: Sequence[str]) -> np.ndarray:
        compute = partial(pass_over, predict, spec=spec)
        if pool is None:
            return compute(paths, reader=readers[split])
        return pool.features(
            (*key, split), paths, readers[split], lambda paths, own: compute(paths, reader=own)
        )

    train_inputs = collect("train", view_inputs, train_spec, train.paths)
    if not len(val):
        val_inputs = np.empty((0, *each.shape), each.dtype)
    elif pool and train_spec == spec:  # a plain view of all images is there
        val_inputs = collect("train", view_inputs, spec, val.paths)[:, 0]
    else:
        val_inputs = collect("val", head_inputs, spec, val.paths)
    features = replicate((Features(train_inputs, train.train_labels), val_inputs), mesh)
    seconds = time.perf_counter() - began
    rate = (views * len(train) + len(val)) / seconds
    console.print(f"{phase_plan.phase.name}: features in {seconds:.1f} s, {rate:.1f} images/s")
    return features


def with_sample(features: Features, of_val: jax.Array, sample: np.ndarray) -> jax.Array:
    """Returns the inputs of the head for the validation images, then for sampled training images.

    The training images are the plain ones, not the mirrored ones.

    Args:
        features: of the training images.
        of_val: inputs of the head for the validation images, [image, ...].
        sample: rows of the training images.

    Returns:
        [image, ...], on every device.
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
    repeats: Repeats | None = None,
) -> Iterator[FeatureChunk]:
    """Yields this process's rows of the batches from first_step to the end of the phase.

    A chunk contains `steps` batches. It ends at an evaluation and is then padded with NO_STEP. The
    order of the images is that of `train_batches`, and unreadable images are replaced by the same
    other images. Of two views, half of the images of an epoch take the second: those at odd places
    of another permutation; more views are shared out in the same way. An image that is in an epoch
    several times takes the next view each time. The view is a function of (seed, epoch, index); it
    is not the symmetry that `train_batches` draws.

    Args:
        readable: bool [image], False for images that were skipped.
        phase_plan: the phase.
        first_step: step of the first batch.
        steps: batches per chunk.
        rows: this process's rows of each batch.
        seed: seed of the run.
        repeats: how often each image is in an epoch; None: once.

    Yields:
        Chunks on the host.
    """
    views, images = phase_plan.phase.cached_views, len(readable)
    for end in [evaluation for evaluation in phase_plan.evaluations if evaluation > first_step]:
        for begin in range(first_step, end, steps):
            step = np.arange(begin, begin + steps, dtype=np.int64)[:, None]
            position = step * rows.batch_size + rows.start + np.arange(rows.count)
            epoch, index = stream_order(position.ravel(), images, seed, repeats)
            for row in np.flatnonzero(~readable[index]):
                others = substitutes(seed, int(epoch[row]), int(index[row]), images)
                index[row] = next(other for other in others if readable[other])
            view = np.zeros_like(index)
            if views > 1:  # seeds are below 2**31, so no run has this order of images
                earlier, epoch = np.divmod(epoch, REPEAT)
                place = stream_order(epoch * images + index, images, seed + 2**31)[1]
                view = (place + earlier) % views
            feature_row = (index * views + view).reshape(position.shape)
            yield FeatureChunk(
                row=np.where(step < end, feature_row, NO_STEP).astype(np.int32),
                position=position.astype(np.uint32),
            )
        first_step = end


def _collect(
    predict: Callable,
    paths: Sequence[str],
    *,
    variables: dict,
    spec: EvalSpec,
    mesh: jax.sharding.Mesh,
    reader: Reader,
    stop: Stop,
) -> np.ndarray:
    """Returns the outputs for all images; raises StoppedError if stop was set before the last."""
    title, begin = "features" if is_first_process() else "", 0
    whole: Any = None
    for part in predict_batches(predict, variables, paths, spec, mesh, reader, title):
        if stop.is_set():
            raise StoppedError
        if whole is None:  # filled in place, because feature maps may take half of the memory
            whole = np.empty((len(paths), *part.shape[1:]), part.dtype)
        whole[begin : begin + len(part)] = part
        begin += len(part)
    return whole


def _views(head_inputs: Callable, turn: Callable, views: int, variables: dict, images) -> jax.Array:
    """Returns [image, view, ...], from one call per view, which needs less memory than one call."""
    inputs = [head_inputs(variables, images)]
    inputs += [head_inputs(variables, turn(images, view)) for view in range(1, views)]
    return jnp.stack(inputs, axis=1)


def _free_everywhere(mesh: jax.sharding.Mesh) -> float:
    """Returns the least free memory of all devices, so that all processes decide alike."""
    free: Any = np.float32(free_memory(mesh))
    if jax.process_count() > 1:
        free = np.min(multihost_utils.process_allgather(free))
    return float(free)
