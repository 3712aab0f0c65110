"""The files of `predict --explain`: where in each image the evidence for its classes is."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mlcls_jax.config.schema import image_size
from mlcls_jax.data.batch import to_devices
from mlcls_jax.data.images.decoding import open_image, read_file
from mlcls_jax.data.images.transforms import seen_box, shrink
from mlcls_jax.data.loaders.threads import Reader, eval_batches, local_rows
from mlcls_jax.explain.grad_cam import make_explain_step, overlay
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.step.programs import build_model
from mlcls_jax.system.devices import put_local, sharded
from mlcls_jax.system.files import new_folder

MOST = 8  # classes of an image that are explained
SHORT_SIDE = 480  # of an overlay, pixels; smaller images keep their size
_NAME = 25  # characters of each part of a file name: four bytes each still fit in 255


def write_overlays(
    folder: Path,
    run: TrainedModel,
    paths: list[str],
    names: list[str],
    chosen: np.ndarray,
    reader: Reader,
) -> int:
    """Writes a PNG per image and class into a new folder, and returns how many.

    Args:
        folder: to make.
        run: without test-time augmentation: maps are of the plain image.
        paths: of images that can be read.
        names: of these images, for the names of the files.
        chosen: from `choose`.
        reader: of the images.

    Raises:
        ValueError: there is something in the folder already, or it cannot be written.
    """
    size, how = image_size(run.config), run.config.augment.eval_resize
    written = 0
    with new_folder(folder) as partial:
        for index, maps in enumerate(class_maps(run, paths, np.maximum(chosen, 0), reader)):
            wanted = chosen[index][chosen[index] >= 0]
            if not wanted.size:
                continue
            image = shrink(open_image(read_file(paths[index]), reader.max_pixels), SHORT_SIDE)
            box = seen_box(image.shape[0], image.shape[1], size, how)
            for rank, label in enumerate(wanted):
                name = file_name(index, rank, names[index], run.classes[label])
                Image.fromarray(overlay(image, maps[rank], box)).save(partial / name)
            written += wanted.size
    return written


def choose(probabilities: np.ndarray, present: np.ndarray) -> np.ndarray:
    """int32 [image, k]: classes that are there, most probable first, at most MOST; then -1.

    Args:
        probabilities: float64 [image, class].
        present: bool of the same shape.
    """
    order = np.argsort(np.where(present, -probabilities, np.inf), axis=1, kind="stable")[:, :MOST]
    there = np.take_along_axis(present, order, axis=1)
    return np.where(there, order, -1).astype(np.int32)


def file_name(index: int, rank: int, image: str, label: str) -> str:
    """Such as 00003-1_park_dog.png: the third image's first class.

    No other's, whatever they are called, and nothing but letters, digits, "_" and "-" before its
    ending.
    """
    parts = (re.sub(r"[^\w-]+", "_", part)[:_NAME] for part in (Path(image).stem, label))
    return f"{index + 1:05}-{rank + 1}_{'_'.join(parts)}.png"


def class_maps(
    run: TrainedModel, paths: list[str], chosen: np.ndarray, reader: Reader
) -> Iterator[np.ndarray]:
    """Float32 [k, rows, columns] of each image, for the classes chosen, int32 [image, k]."""
    model = build_model(run.config, len(run.classes), run.pretrained_config.convention)
    explain = make_explain_step(model, run.pretrained_config.normalization, run.mesh)
    rows = local_rows(run.config.data.eval_batch_size, "data.eval_batch_size")
    how = {"size": image_size(run.config), "augment": run.config.augment}
    batches = eval_batches(paths, rows=rows, reader=reader, **how)
    for number, images in enumerate(to_devices(batches, sharded(run.mesh))):
        asked = chosen[number * rows.count :][: rows.count]
        padded = np.pad(asked, ((0, rows.count - len(asked)), (0, 0)))
        _, maps = explain(run.variables, images, put_local(padded, sharded(run.mesh)))
        yield from np.asarray(maps)[: len(asked)]
