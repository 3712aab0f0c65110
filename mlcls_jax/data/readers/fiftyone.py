"""Reads a data set that FiftyOne has exported as FiftyOneDataset.

A class is present on an image if the field has a classification of it, and absent otherwise. An
image whose field is empty (None) has unknown labels. Images are found where the export says: in its
folder, or at their absolute paths.

Source of the format: FiftyOne 1.22, utils/data/importers.py, FiftyOneDatasetImporter.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.detection import entries, known_classes
from mlcls_jax.data.readers.file_names import make_table
from mlcls_jax.data.readers.json_files import chosen_name, read_json

SAMPLES = "samples.json"
_NEEDS = f"data.source='fiftyone' needs the folder of an export as FiftyOneDataset, with {SAMPLES}"
_KINDS = ("Classifications", "Classification")
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}  # tags of samples


def read_fiftyone(
    place: str | Path, field: str = "", classes: Sequence[str] | None = None
) -> LabelTable:
    """Reads the classifications of an export.

    Args:
      place: the folder, or its samples.json.
      field: name of the field with the labels; "": the only one with classifications.
      classes: all class names; None: those that are found, sorted.

    Returns:
      A LabelTable in the order of the samples; with splits if each sample has exactly one of the
      tags train, val, validation and test.

    Raises:
      ValueError: one line with the file and the sample, what is wrong and what to do.
    """
    place = Path(place).expanduser()
    path = place / SAMPLES if place.is_dir() else place
    content = read_json(path, _NEEDS)
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list) or not samples:
        raise ValueError(f"{path}: has no list of samples; {_NEEDS}")
    for i, sample in enumerate(samples):
        if not isinstance(sample, dict) or not isinstance(sample.get("filepath"), str):
            raise ValueError(f"{path}: samples[{i}] has no filepath; {_NEEDS}")
    field = _field(path, samples, field)
    labels = [_classes(path, i, sample.get(field)) for i, sample in enumerate(samples)]
    found = set().union(*(names for names in labels if names))
    columns = known_classes(found, classes, f"{path}: {field} has the labels")
    if not columns:
        raise ValueError(f"{path}: no sample has a label in {field}; label some first")
    folder, names = _places(path, [sample["filepath"] for sample in samples])
    values = [
        [UNKNOWN] * len(columns) if names is None else [int(name in names) for name in columns]
        for names in labels
    ]
    return make_table(
        entries(path, "samples", names),
        np.array(values, np.int8),
        columns,
        folder,
        splits=_splits(samples),
    )


def _field(path: Path, samples: list[dict[str, Any]], field: str) -> str:
    fields = {
        name
        for sample in samples
        for name, value in sample.items()
        if isinstance(value, dict) and value.get("_cls") in _KINDS
    }
    if not fields:
        raise ValueError(f"{path}: no sample has a field of classifications; label some first")
    return chosen_name(path, fields, field, "classifications in the fields")


def _classes(path: Path, i: int, value: Any) -> set[str] | None:
    """Returns the classes of a sample; None if it has no labels."""
    if value is None:
        return None
    parts = value.get("classifications") or [] if value.get("_cls") == _KINDS[0] else [value]
    names = {part.get("label") if isinstance(part, dict) else None for part in parts}
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: samples[{i}] has a classification without a label; remove it")
    return {str(name) for name in names}


def _places(path: Path, files: list[str]) -> tuple[Path, list[str]]:
    """Returns the folder of all images, and their names in it."""
    whole = [os.path.normpath(path.parent / file) for file in files]
    folder = Path(os.path.commonpath([os.path.dirname(file) for file in whole]))
    return folder, [Path(file).relative_to(folder).as_posix() for file in whole]


def _splits(samples: list[dict[str, Any]]) -> tuple[str, ...] | None:
    tags = [[_SPLITS[t] for t in one.get("tags") or () if t in _SPLITS] for one in samples]
    return tuple(one[0] for one in tags) if all(len(one) == 1 for one in tags) else None
