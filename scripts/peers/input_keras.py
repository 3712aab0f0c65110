"""Keras's sides of compare_input.py; they can yield float32 only."""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import PIL
import tensorflow as tf
from input_side import LABELS
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from peer_worker import Step, cores

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def versions() -> str:
    """Returns the versions of the libraries."""
    return f"Keras {keras.__version__} on TensorFlow {tf.__version__} with Pillow {PIL.__version__}"


def build(side: str, folder: str, size: int, batch: int, threads: int = 0) -> dict[str, Step]:
    """Returns the steps for peer_worker.py; `threads` is for keras-directory, see `directory`."""
    if side == "keras-directory":
        batches = directory(folder, size, batch, threads)
    else:
        workers = {"keras-flow": 1, "keras-flow-threads": cores()}[side]
        batches = flow(folder, size, batch, workers)
    return {"batch": lambda: next(batches)}


def flow(folder: str, size: int, batch: int, workers: int) -> Iterator[Any]:
    """Yields batches of `flow_from_dataframe` with a column per class, as `fit` reads them."""
    table = pd.read_csv(Path(folder, LABELS))
    # Each image is listed `batch` times, so that every batch is full and epochs end rarely.
    images = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255).flow_from_dataframe(
        pd.concat([table] * batch),
        folder,
        y_col=[name for name in table.columns if name != "filename"],
        class_mode="raw",
        target_size=(size, size),
        batch_size=batch,
    )
    images.workers = workers
    while True:
        yield from PyDatasetAdapter(images).get_tf_dataset()


def directory(folder: str, size: int, batch: int, threads: int) -> Iterator[Any]:
    """Returns batches of `image_dataset_from_directory`, without labels, as it is single-label.

    threads: number of threads; 0: as many as by default.
    """
    options: Any = {"labels": None, "batch_size": None, "shuffle": False, "verbose": False}
    images: Any = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), **options
    )
    batches = images.repeat().batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    if threads:
        limited = tf.data.Options()
        limited.threading.private_threadpool_size = threads
        batches = batches.with_options(limited)
    return iter(batches)
