"""Overlay files of `predict --explain`: the parts of each image that support its classes."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mlcls_jax.config.schema import image_size
from mlcls_jax.data.batch import to_devices
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.images.transforms import seen_box, shrink
from mlcls_jax.data.loaders.loader import Reader, eval_batches, local_rows
from mlcls_jax.explain.grad_cam import make_explain_step, overlay
from mlcls_jax.options.predict import MAX_CLASSES
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.step.network import build_model
from mlcls_jax.system.devices import put_local, sharded
from mlcls_jax.system.files import new_folder

SHORT_SIDE = 480  # pixels of an overlay; smaller images keep their size
_NAME_PART = 25  # characters of a part of a file name; at 4 bytes each the name fits in 255


def write_overlays(
    folder: Path,
    run: TrainedModel,
    paths: list[str],
    names: list[str],
    chosen: np.ndarray,
    reader: Reader,
) -> int:
    """Writes one PNG per image and chosen class into a new folder.

    Args:
        folder: folder to create.
        run: the trained run, without test-time augmentation: maps are of the plain image.
        paths: images that can be read.
        names: a name for each image, used in the file names.
        chosen: int32 [image, k] from `choose`.
        reader: reads the images.

    Returns:
        The number of files written.

    Raises:
        ValueError: the folder is not empty, or cannot be written.
    """
    size, how = image_size(run.config.model), run.config.augment.eval_resize
    written = 0
    with new_folder(folder) as partial:
        for index, maps in enumerate(class_maps(run, paths, np.maximum(chosen, 0), reader)):
            labels = chosen[index][chosen[index] >= 0]
            if not labels.size:
                continue
            image = shrink(open_image(read_file(paths[index]), reader.pixels), SHORT_SIDE)
            box = seen_box(image.shape[0], image.shape[1], size, how)
            for rank, label in enumerate(labels):
                name = file_name(index, rank, names[index], run.classes[label])
                Image.fromarray(overlay(image, maps[rank], box)).save(partial / name)
            written += labels.size
    return written


def choose(probabilities: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Chooses the classes to explain: those predicted present, most probable first.

    Args:
        probabilities: float64 [image, class].
        present: bool [image, class].

    Returns:
        int32 [image, k] with k of at most MAX_CLASSES: class indices, then -1.
    """
    order = np.argsort(np.where(present, -probabilities, np.inf), axis=1, kind="stable")
    order = order[:, :MAX_CLASSES]
    is_present = np.take_along_axis(present, order, axis=1)
    return np.where(is_present, order, -1).astype(np.int32)


def file_name(index: int, rank: int, image: str, label: str) -> str:
    """Returns a file name such as 00003-1_park_dog.png for the third image's first class.

    The name is unique, and consists of letters, digits, "_" and "-" before its extension.

    Args:
        index: index of the image, from 0.
        rank: rank of the class among those chosen for the image, from 0.
        image: path or name of the image.
        label: name of the class.
    """
    parts = (re.sub(r"[^\w-]+", "_", part)[:_NAME_PART] for part in (Path(image).stem, label))
    return f"{index + 1:05}-{rank + 1}_{'_'.join(parts)}.png"


def class_maps(
    run: TrainedModel, paths: list[str], chosen: np.ndarray, reader: Reader
) -> Iterator[np.ndarray]:
    """Yields the maps of each image in turn.

    Args:
        run: the trained run.
        paths: images that can be read.
        chosen: int32 [image, k], indices of the classes to explain.
        reader: reads the images.

    Yields:
        float32 [k, rows, columns] for each image.
    """
    model = build_model(run.network, run.pretrained_config.convention)
    explain = make_explain_step(model, run.pretrained_config.normalization, run.mesh)
    spec = run.evaluation
    rows = local_rows(spec.batch_size, "data.eval_batch_size")
    batches = eval_batches(
        paths, rows=rows, size=spec.image_size, augment=spec.augment, reader=reader
    )
    for batch_index, images in enumerate(to_devices(batches, sharded(run.mesh))):
        in_batch = chosen[batch_index * rows.count :][: rows.count]
        padded = np.pad(in_batch, ((0, rows.count - len(in_batch)), (0, 0)))
        _, maps = explain(run.variables, images, put_local(padded, sharded(run.mesh)))
        yield from np.asarray(maps)[: len(in_batch)]
