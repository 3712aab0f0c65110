"""Images to logits with a trained model, and logits to metrics beside the base rate."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mlcls_jax.config import Config
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.batch import to_devices
from mlcls_jax.data.loaders.threads import Reader, eval_batches, local_rows
from mlcls_jax.system.console import Meter, progress_bar
from mlcls_jax.system.devices import sharded


def predict_dataset(
    predict: Callable[[dict, Any], jax.Array],
    variables: dict,
    paths: Sequence[str],
    config: Config,
    mesh: jax.sharding.Mesh,
    reader: Reader,
    title: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of images, each once, on any number of devices.

    Args: as of `outputs`.

    Returns:
        Float32 [image, class], and bool [image]: False where the image was skipped, so that
        its logits mean nothing.
    """
    parts = list(predict_batches(predict, variables, paths, config, mesh, reader, title))
    return np.concatenate(parts), readable(paths, reader)


def predict_batches(
    predict: Callable[[dict, Any], jax.Array],
    variables: dict,
    paths: Sequence[str],
    config: Config,
    mesh: jax.sharding.Mesh,
    reader: Reader,
    title: str = "",
) -> Iterator[np.ndarray]:
    """Yields what `predict` gives for images, in their order, batch after batch, on the host.

    Args:
        predict: (variables, images) -> an array with a row per image on every device, such as
            from `make_eval_step`.
        variables: of the model, on every device of the mesh.
        paths: files of the images.
        config: batch size, image size and resize.
        mesh: over whose axis the images are spread.
        reader: of the images.
        title: of the progress bar; "" for none.

    Raises:
        ValueError: an image cannot be read, and must not be skipped.
    """
    batch_size = config.data.eval_batch_size
    rows = local_rows(batch_size, "data.eval_batch_size")
    how = {"size": image_size(config), "augment": config.augment}
    batches = eval_batches(paths, rows=rows, reader=reader, **how)
    meter, last = Meter(-(-len(paths) // batch_size), batch_size), None
    with progress_bar(title, meter, visible=bool(title)) as refresh:
        for images in to_devices(batches, sharded(mesh)):
            current = predict(variables, images)
            # One batch behind: the devices have the next one while this waits for the last.
            if last is None:
                meter.begin()
            else:
                yield np.asarray(last)
                meter.advance()
                refresh()
            last = current
    if last is not None:
        yield np.asarray(last)[: len(paths) - meter.done * batch_size]


def readable(paths: Sequence[str], reader: Reader) -> np.ndarray:
    """Which images were not skipped, in any process: bool [image]; after `outputs`."""
    good = np.array([path not in reader.bad for path in paths])
    if jax.process_count() > 1:  # each has read its own rows only
        good = multihost_utils.process_allgather(good).all(axis=0)
        reader.bad.write()  # with theirs
    return good
