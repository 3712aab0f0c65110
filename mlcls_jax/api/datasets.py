"""The batches of a run as a dataset of tf.data, for training loops of one's own."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlcls_jax.api.configs import with_frames, written_labels
from mlcls_jax.api.session import session
from mlcls_jax.config import Config, Data
from mlcls_jax.config.loader_checks import check_loader
from mlcls_jax.config.recipes import with_recipe
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.images.bit_depth import with_bit_depth
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import Reader, local_rows, make_reader, tf_module
from mlcls_jax.data.loaders.order import eval_order, train_order
from mlcls_jax.data.oversampling import with_repeats
from mlcls_jax.data.readers.records import tensorflow
from mlcls_jax.data.split_tables import SPLITS
from mlcls_jax.data.splits import load_splits
from mlcls_jax.step.phases import plan_phases
from mlcls_jax.system.console import console


def tf_dataset(
    labels: LabelTable | pd.DataFrame | str | Path | None,
    config: Config,
    split: str = "train",
    *,
    first_step: int = 0,
    last_step: int | None = None,
) -> Any:
    """Returns a tf.data.Dataset of (images, labels), made of TensorFlow operations.

    Images are uint8 [batch, size, size, channel], not normalised.  Labels are int8 [batch, class]
    with 1, 0 and -1 for unknown; soft labels of train are float32 in [0, 1].  The training batches
    are those of `train`: the same images in the same order, with the same augmentation; each
    process gets its rows.  Images of other splits come once, in the order of the table, and the
    last batch is shorter.

    An image that cannot be read is an error of TensorFlow.

    Args:
        labels: a CSV or a DataFrame with the labels, which replaces config.data.csv; a LabelTable
            with the images of the split; or None for config.data.
        config: from `config`; its images, batch sizes, augmentation and seed are used.
        split: "train", "val" or "test".
        first_step: the first training step.
        last_step: the step after the last one; None: the last of the config's phases.

    Raises:
        ValueError: TensorFlow is not installed or cannot resize so, the labels cannot be read, or
            there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    loading = dataclasses.replace(config.data, loader="tf_data", service="", cache="none")
    check_loader(loading, config.augment)
    config = with_recipe(dataclasses.replace(config, data=loading))[0]
    if isinstance(labels, LabelTable):
        table = with_repeats(labels, config.data) if split == "train" else labels
        splits = {split: table}
    else:
        config = config if labels is None else with_frames(config, {"data.csv": labels})
        with session():
            splits = _splits(config.data, split)
    table, channels, workers = splits[split], config.model.in_channels, Reader().workers()
    data = with_bit_depth(config.data, splits.values(), workers, channels, console.print)
    size = image_size(config.model)
    pipeline: Any = tf_module("tf_pipeline")
    reader = make_reader(data, channels, len(table), loader="tf_data")
    if split != "train":
        rows = local_rows(config.data.eval_batch_size, "data.eval_batch_size")
        images = pipeline.eval_images(table.paths, size, config.augment, reader)
        steps = -(-len(table) // rows.batch_size)
        order = eval_order(table.paths, reader.bad, rows, 0, steps)
        return _labelled(pipeline, images, table.labels, *order)
    rows = local_rows(config.data.batch_size, "data.batch_size")
    images = pipeline.train_images(table.paths, size, config.augment, config.seed, reader)
    if last_step is None:
        plan = plan_phases(
            config.phases,
            len(table),
            batch_size=config.data.batch_size,
            every=config.evaluation.every,
        )
        last_step = plan[-1].stop
    order = train_order(
        table.paths, config.seed, reader.bad, rows, first_step, last_step, table.repeats
    )
    return _labelled(pipeline, images, table.train_labels, *order)


def _splits(data: Data, split: str) -> dict[str, LabelTable]:
    """All splits, with the one that is asked for; the labels may be DataFrames."""
    with tempfile.TemporaryDirectory() as folder:
        paths = written_labels(data, Path(folder))
        files = {path.removeprefix("data."): file for path, file in paths.items()}
        splits = load_splits(dataclasses.replace(data, **files))
    if split not in splits:
        raise ValueError(f"there is no split {split!r}; there are {', '.join(splits)}")
    return splits


def _labelled(
    pipeline: Any, images: Any, values: np.ndarray, epochs: np.ndarray, indices: np.ndarray
) -> Any:
    """The dataset with its labels; black rows are left out."""
    tf = tensorflow("tf_dataset")
    labels = tf.data.Dataset.from_tensor_slices(np.maximum(indices, 0)).map(
        lambda rows: tf.gather(values, rows)
    )
    batches = tf.data.Dataset.zip(
        pipeline.image_dataset(images, epochs, indices, changes=True), labels
    )
    if (indices >= 0).all():
        return batches
    used = tf.data.Dataset.from_tensor_slices((indices >= 0).sum(axis=1))
    return tf.data.Dataset.zip(batches, used).map(
        lambda batch, used: (batch[0][:used], batch[1][:used])
    )
