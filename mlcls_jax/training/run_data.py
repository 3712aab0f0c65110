"""Reads the data of a run: splits, depth of the images, and readers with their caches."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlcls_jax.config import Data
from mlcls_jax.config.recipes import OFF
from mlcls_jax.data.images.bit_depth import with_bit_depth
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.cache import Form
from mlcls_jax.data.loaders.cache_build import with_cache
from mlcls_jax.data.loaders.loader import Reader, cores
from mlcls_jax.data.oversampling import oversampled
from mlcls_jax.data.readers.read_table import has_folder
from mlcls_jax.data.splits import check_train
from mlcls_jax.evaluation.base_rate import SAMPLE
from mlcls_jax.evaluation.inference import EvalSpec
from mlcls_jax.run.workdir import read_splits_of
from mlcls_jax.system.console import console, print_warning
from mlcls_jax.training.pool import ImagePool, Subset


def read_data(data: Data, workdir: Path, pool: ImagePool | None) -> dict[str, LabelTable]:
    """Returns the splits; pool: of a run of a fold, or of the run on the images of all folds."""
    if pool is None:
        splits = _read_splits(data, workdir)
    elif data.fold < 0:
        splits = pool.folds.pool
    else:
        splits = oversampled(pool.folds.splits_of(data.fold), data)
    for warning in check_train(splits):
        print_warning(warning)
    return splits


def _read_splits(data: Data, workdir: Path) -> dict[str, LabelTable]:
    """Returns the splits, and prints how they were understood."""
    if not data.csv:
        raise ValueError(
            "config: data.csv is empty; name your files, such as --config.data.csv=labels.csv "
            "--config.data.images=photos, or a packed data set"
        )
    if has_folder(data, data.csv) and not data.images:
        raise ValueError(
            f"config: data.images is empty; name the folder of the images of {data.csv}, such as "
            "--config.data.images=photos"
        )
    splits = read_splits_of(workdir, data)
    print_notes(splits)
    return splits


def print_notes(splits: dict[str, LabelTable]) -> None:
    """Prints how the label files were understood, each note once."""
    for note in dict.fromkeys(note for table in splits.values() for note in table.notes):
        console.print(note)


def print_filled(title: str, fields: Mapping[str, Any]) -> None:
    """Prints the fields that something filled in, such as "recipe auto", if there are any."""
    if fields:
        text = ", ".join(f"{path}={value!r}" for path, value in fields.items())
        if fields == OFF:
            text = "no RandAugment, because no phase trains on images"
        console.print(f"{title}: {text}")


def with_found_depth(data: Data, splits: dict[str, LabelTable], channels: int) -> Data:
    """Returns the section with the bits that deep images use, and prints them.

    Args:
        data: it is not changed.
        splits: all images of the run.
        channels: the field model.in_channels.
    """
    workers = data.threads or cores() + 1
    return with_bit_depth(data, splits.values(), workers, channels, console.print)


def readers_of(
    data: Data,
    evaluation: EvalSpec,
    tables: dict[str, LabelTable],
    reader: Reader,
    pool: ImagePool | None,
) -> dict[str, Reader]:
    """Returns the readers of what every epoch reads, each with its cache if the config asks."""
    size, augment = evaluation.image_size, evaluation.augment

    def one(split: str) -> Reader:
        paths = tables[split].paths
        if pool is None or data.cache == "none":
            return with_cache(reader, data, augment, size, split, paths)
        form, everything = Form.of_split(split, augment, size, reader.pixels), pool.paths
        whole = pool.cached(
            reader, form, lambda: with_cache(reader, data, augment, size, split, everything)
        )
        if whole.cache is None:
            return whole
        return replace(reader, cache=Subset(whole.cache, pool.rows(paths)))

    return {split: one(split) for split in ("train", "val", SAMPLE) if len(tables[split])}
