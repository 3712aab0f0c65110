"""Predictions of a trained model for many images, in batches on all devices."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from mlcls_jax.config import Augment, Config
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.batch import to_devices
from mlcls_jax.data.loaders.loader import Reader, eval_batches, local_rows
from mlcls_jax.system.console import Meter, progress_bar
from mlcls_jax.system.devices import sharded


@dataclass(frozen=True)
class EvalSpec:
    """How images are batched and resized for evaluation.

    Attributes:
        batch_size: images per batch, over all devices.
        image_size: side of the square input in pixels.
        augment: the section of the config; evaluation needs eval_resize and interpolation.
    """

    batch_size: int
    image_size: int
    augment: Augment


def eval_spec(config: Config) -> EvalSpec:
    """Returns how a run batches and resizes images for evaluation."""
    return EvalSpec(config.data.eval_batch_size, image_size(config.model), config.augment)


def predict_dataset(
    predict: Callable[[dict, Any], jax.Array],
    variables: dict,
    paths: Sequence[str],
    spec: EvalSpec,
    mesh: jax.sharding.Mesh,
    reader: Reader,
    title: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits of all images, and which images could be read.

    Args: see `predict_batches`.

    Returns:
        Float32 [image, class], and bool [image], False if the image was skipped; the logits of a
        skipped image are meaningless.

    Raises:
        ValueError: an image cannot be read and must not be skipped.
    """
    parts = list(predict_batches(predict, variables, paths, spec, mesh, reader, title))
    return np.concatenate(parts), readable(paths, reader)


def predict_batches(
    predict: Callable[[dict, Any], jax.Array],
    variables: dict,
    paths: Sequence[str],
    spec: EvalSpec,
    mesh: jax.sharding.Mesh,
    reader: Reader,
    title: str = "",
) -> Iterator[np.ndarray]:
    """Yields the outputs of `predict` batch by batch, in the order of the images, on the host.

    Args:
        predict: (variables, images) -> an array with a row per image, on every device; for example
            from `make_eval_step`.
        variables: of the model, on every device of the mesh.
        paths: files of the images.
        spec: batch size, image size and resizing.
        mesh: the images of a batch are sharded over its axis.
        reader: reads the images.
        title: title of the progress bar; "" for none.

    Raises:
        ValueError: an image cannot be read and must not be skipped.
    """
    batch_size = spec.batch_size
    rows = local_rows(batch_size, "data.eval_batch_size")
    batches = eval_batches(
        paths, rows=rows, size=spec.image_size, augment=spec.augment, reader=reader
    )
    meter, previous = Meter(-(-len(paths) // batch_size), batch_size), None
    with progress_bar(title, meter, visible=bool(title)) as refresh:
        for images in to_devices(batches, sharded(mesh)):
            current = predict(variables, images)
            # Wait for the previous batch only now, while the devices work on the current one.
            if previous is None:
                meter.begin()
            else:
                yield np.asarray(previous)
                meter.advance()
                refresh()
            previous = current
    if previous is not None:
        yield np.asarray(previous)[: len(paths) - meter.done * batch_size]


def readable(paths: Sequence[str], reader: Reader) -> np.ndarray:
    """Returns which images no process has skipped; call it after `predict_batches`.

    Args:
        paths: files of the images.
        reader: the reader that has read them.

    Returns:
        Bool [image].
    """
    good = ~reader.bad.among(paths)
    if jax.process_count() > 1:  # each process has read only its own rows
        good = multihost_utils.process_allgather(good).all(axis=0)
        reader.bad.write()  # now with the bad images of the other processes
    return good


def pooled(features: Any) -> Float[np.ndarray, "image channel"]:
    """Returns inputs of the head as float32; feature maps of an ML-Decoder by their mean.

    Args:
        features: NumPy or JAX array, [image, channel] or [image, height, width, channel].
    """
    features = features if features.ndim == 2 else features.mean(axis=(1, 2), dtype=np.float32)
    return np.asarray(features, np.float32)
