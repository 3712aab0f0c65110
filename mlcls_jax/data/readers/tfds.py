"""Reads data sets of TensorFlow Datasets (TFDS) in place, without copying them.

The first run reads all records with TFDS, in the order of its files, and saves the labels and the
position of each image to the cache folder. Later runs read an image by its position. They need
neither TFDS nor TensorFlow; data sets that are prepared as ArrayRecord need array_record.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.data.images.extensions import extension_of
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.detection import AnnotationPolicy, entries
from mlcls_jax.data.readers.file_names import make_table
from mlcls_jax.data.readers.listing import file_sizes
from mlcls_jax.data.readers.records import array_record, array_records, tfrecords
from mlcls_jax.data.readers.storage import Part
from mlcls_jax.data.readers.tfds_features import Labeller, decoders, find_image
from mlcls_jax.system.console import one_line, quoted
from mlcls_jax.system.files import cache_folder, replacing

FORMAT = 2  # version of the index files
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_ARRAYS = ("shard", "record", "offset", "size", "labels")  # fields of _Index
_FILE_FORMATS = ("tfrecord", "array_record")


@dataclass(frozen=True)
class TfdsSet:
    """A data set and the features to read.

    name: such as coco/2017, or voc/2007[train+validation] for some of its splits.
    data_dir: the folder where TFDS keeps its data sets; "": its default.
    image, label: paths of features; see `config.Data`.
    policy: how crowds, difficult and small objects count.
    """

    name: str
    data_dir: str
    image: str
    label: str
    policy: AnnotationPolicy


@dataclass
class _Index:
    """What reading the records finds; all fields after `sizes` have one entry per image.

    shards: paths of the record files.
    sizes: their sizes in bytes.
    shard: index into `shards`.
    record, offset, size: the position in the shard, as in Part; a record of -1 is none.
    """

    classes: tuple[str, ...]
    shards: list[str]
    sizes: list[int]
    names: list[str]
    splits: list[str]
    shard: np.ndarray
    record: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    labels: np.ndarray


def read_tfds(dataset: TfdsSet) -> LabelTable:
    """Reads the labels of a data set, which TFDS downloads if necessary.

    If a split has no positive label at all, such as COCO's test, its labels are unknown: TFDS
    represents withheld labels like that.

    Args:
      dataset: the data set and the features to read.

    Returns:
      A LabelTable with file names such as train/000000391895.jpg. It has splits, unless the name
      of the data set selects some.

    Raises:
      ValueError: a package is missing, the data set, the split or the feature does not exist, or
        the records cannot be read.
    """
    file = _index_file(dataset)
    index = _load(file)
    if index is None:
        index = _build(dataset)
        _save(index, file)
    folder = os.path.dirname(index.shards[0])
    return make_table(
        entries(folder, "images", index.names),
        index.labels,
        index.classes,
        folder,
        splits=None if "[" in dataset.name else tuple(index.splits),
        sources=_parts(index, folder),
    )


def _parts(index: _Index, folder: str) -> dict[str, Part]:
    """The position of each image, by file name."""
    if (index.record >= 0).any():
        array_record("reading ArrayRecord files")  # refuses here, not at the first image
    columns = (index.shard, index.offset, index.size, index.record)
    positions = zip(index.names, *(column.tolist() for column in columns), strict=True)
    return {
        name: Part(
            f"{folder}/{name}", index.shards[shard], offset, size, record if record >= 0 else None
        )
        for name, shard, offset, size, record in positions
    }


def _build(dataset: TfdsSet) -> _Index:
    tfds, info, splits = _open(dataset)
    reader = _Reader(tfds, info, dataset)
    for split in splits:
        reader.read(split)
    return reader.index()


class _Reader:
    """Reads examples with TFDS, and finds the position of each image in the files."""

    def __init__(self, tfds: Any, info: Any, dataset: TfdsSet):
        self._dataset, self._info = dataset, info
        self._labeller = Labeller(info.features, dataset.label, dataset.policy)
        self._image = find_image(info.features, dataset.image, tfds.features.Image)
        name_feature = f"{dataset.image}/filename"
        self._name_keys = [(name_feature,)] if name_feature in info.features else []
        decoded = [*self._labeller.keys, *self._name_keys]
        self._decoders = decoders(info.features, decoded, tfds.decode.SkipDecoding)
        self._shards: list[str] = []
        self._rows: list[tuple[str, str, int, int, int, int]] = []  # as the fields of _Index
        self._labels: list[np.ndarray] = []

    def read(self, split: str) -> None:
        """Adds the images of a split."""
        labels: list[np.ndarray] = []
        for path in map(os.fspath, self._info.splits[split].filepaths):
            for record, start, serialized in self._records(path):
                example = self._example(path, serialized)
                contents = self._image.value(example)
                name = self._name(example, contents, len(labels))
                name = posixpath.normpath(f"{split}/{name}".replace("\\", "/"))
                position = (record, start + serialized.find(contents), len(contents))
                self._rows.append((name, _SPLITS.get(split, split), len(self._shards), *position))
                labels.append(self._label_row(example, name))
            self._shards.append(path)
        withheld = not any((row == 1).any() for row in labels)
        self._labels += [np.full_like(row, UNKNOWN) for row in labels] if withheld else labels

    def index(self) -> _Index:
        """The index of all images read."""
        if not self._rows:
            raise ValueError(f"{self._dataset.name}: its splits have no images; use other splits")
        names, splits, *positions = zip(*self._rows, strict=True)
        shard, record, offset, size = (np.array(column, np.int64) for column in positions)
        return _Index(
            classes=self._labeller.classes,
            shards=self._shards,
            sizes=_sizes(self._shards),
            names=list(names),
            splits=list(splits),
            shard=shard,
            record=record,
            offset=offset,
            size=size,
            labels=np.stack(self._labels),
        )

    def _records(self, path: str) -> Iterator[tuple[int, int, bytes]]:
        """The number of each record (-1: read by offset), its offset, and its bytes."""
        if self._info.file_format.value == "tfrecord":
            for offset, record in tfrecords(path):
                yield -1, offset, record
        else:
            for index, record in enumerate(array_records(path)):
                yield index, 0, record

    def _example(self, path: str, serialized: bytes) -> dict:
        """The features of a record, decoded by TFDS except for the image."""
        try:
            return self._info.features.deserialize_example_np(serialized, decoders=self._decoders)
        except Exception as error:  # TFDS raises the errors of all libraries that it uses
            raise ValueError(
                f"{self._dataset.name}: TFDS cannot read a record of {path}: "
                f"{one_line(error, limit=300)}; prepare the data set again"
            ) from error

    def _name(self, example: dict, contents: bytes, number: int) -> str:
        for (key,) in self._name_keys:
            return example[key].decode()
        return f"{number:08d}.{extension_of(contents)}"

    def _label_row(self, example: dict, name: str) -> np.ndarray:
        try:
            return self._labeller.labels(example)
        except ValueError as error:
            raise ValueError(f"{self._dataset.name}: {name}: {error}") from error


def _open(dataset: TfdsSet) -> tuple[Any, Any, list[str]]:
    """The package, the data set's DatasetInfo, and the splits to read."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[([\w+]+)\])?", dataset.name)
    if not match:
        raise ValueError(
            f"{dataset.name!r} is not the name of a TFDS data set; write it like coco/2017, or "
            "voc/2007[train+validation] for some of its splits"
        )
    try:
        tfds: Any = importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise ValueError(
            f"data.source='tfds' needs another package ({error}); install mlcls_jax[tfds]"
        ) from error
    try:
        builder = tfds.builder(match[1], data_dir=dataset.data_dir or None)
        builder.download_and_prepare()
        info = builder.info
    except Exception as error:  # TFDS raises the errors of all libraries that it uses
        raise ValueError(
            f"{dataset.name}: TFDS cannot open the data set: {one_line(error, limit=300)}"
        ) from error
    if info.file_format.value not in _FILE_FORMATS:
        raise ValueError(
            f"{dataset.name} is prepared as {info.file_format.value}; prepare it with "
            f"file_format={_FILE_FORMATS[0]!r} or {_FILE_FORMATS[1]!r} in another folder, and set "
            "data.images to that folder"
        )
    available = list(info.splits)
    splits = match[2].split("+") if match[2] else [name for name in _SPLITS if name in available]
    if missing := set(splits or _SPLITS) - set(available):
        raise ValueError(
            f"{dataset.name}: no split {', '.join(sorted(missing))}; choose from "
            f"{quoted(available)}, as in {match[1]}[{available[0]}]"
        )
    return tfds, info, splits


def _index_file(dataset: TfdsSet) -> Path:
    settings = dataclasses.asdict(dataset) | {"format": FORMAT}
    settings["data_dir"] = dataset.data_dir or os.environ.get("TFDS_DATA_DIR", "")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "tfds" / f"{digest[:32]}.npz"


def _save(index: _Index, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in vars(index).items()}
        with replacing(file) as partial, open(partial, "wb") as opened:
            np.savez(opened, **arrays)
    except OSError as error:
        raise ValueError(f"{file} cannot be written: {error}") from error


def _load(file: Path) -> _Index | None:
    """The index of an earlier run, if it is complete and the record files have not changed."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            lists = {name: arrays[name].tolist() for name in ("shards", "sizes", "names", "splits")}
            columns = {
                name: arrays[name] for name in ("shard", "record", "offset", "size", "labels")
            }
            index = _Index(classes=tuple(arrays["classes"].tolist()), **lists, **columns)
        return index if _sizes(index.shards) == index.sizes else None
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _sizes(shards: list[str]) -> list[int]:
    """The sizes in bytes of files in one folder; -1 for a missing file."""
    found = file_sizes(os.path.dirname(shards[0]))
    return [found.get(os.path.basename(path), -1) for path in shards]
