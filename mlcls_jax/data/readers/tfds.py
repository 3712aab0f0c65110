"""Reads data sets of TensorFlow Datasets (TFDS) in place, without copying them.

The first run reads all records, and saves the labels and the position of each image in its TFRecord
file to the cache folder. Later runs read an image by its position and need neither TFDS nor
TensorFlow.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import posixpath
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_cells import quoted
from mlcls_jax.data.readers.csv_labels import make_table
from mlcls_jax.data.readers.detection import AnnotationPolicy, entries, object_labels
from mlcls_jax.data.readers.storage import Part, file_sizes, file_system_of, is_remote
from mlcls_jax.system.console import one_line
from mlcls_jax.system.files import cache_folder, replacing

FORMAT = 1  # version of the index files
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_EXTENSIONS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}
# Arguments of AnnotationPolicy.label, by the feature next to the label that holds them.
_POLICY_FEATURES = {"is_crowd": "crowd", "is_difficult": "difficult", "area": "area"}
_LENGTH, _CHECKSUM = struct.Struct("<Q4x"), 4  # before and after a record; checksums are ignored


@dataclass(frozen=True)
class Feature:
    """A feature, and the keys of its values in a tf.train.Example.

    path: the path as given in the config.
    node: the object of tfds.features.
    keys: one key, or all keys if the feature is a dictionary.
    owner: the path of the dictionary that contains it, ending with a slash; "" at the top level.
    """

    path: str
    node: Any
    keys: tuple[str, ...]
    owner: str

    @property
    def key(self) -> str:
        """The only key."""
        return self.keys[0]

    @property
    def is_index(self) -> bool:
        """Whether its values are class indices, and not 0 or 1 for each class."""
        return hasattr(_innermost(self.node), "names")


def find_feature(features: Any, path: str, field: str) -> Feature:
    """Returns the feature at a path such as objects/label; keys may contain slashes.

    Args:
      features: the data set's FeaturesDict.
      path: keys separated by slashes.
      field: the config field that error messages name.

    Raises:
      ValueError: there is no such feature, or it is in a list of lists.
    """
    node, rest, last, depth = features, path, "", 0
    while rest:
        keys = _keys(node)
        fitting = [key for key in keys if rest == key or rest.startswith(f"{key}/")]
        if not fitting:
            raise ValueError(
                f"config: {field} is {path!r}, but the data set has no such feature; use one of "
                f"{quoted(keys)}"
            )
        last = max(fitting, key=len)
        node, rest = node[last], rest[len(last) + 1 :]
        depth += hasattr(node, "feature")
    if depth > 1 or hasattr(getattr(node, "feature", None), "feature"):
        raise ValueError(
            f"config: {field} is {path!r}, which is in a list of lists; use another feature"
        )
    owner = path[: len(path) - len(last)]
    return Feature(path, node, tuple(f"{path}/{key}" for key in _keys(node)) or (path,), owner)


def find_classes(label: Feature) -> tuple[str, ...]:
    """Returns the class names of a label feature, in the order of its labels.

    Args:
      label: the feature of data.label_feature.

    Raises:
      ValueError: the feature does not hold classes.
    """
    if keys := _keys(label.node):
        plain = all(getattr(label.node[key], "shape", None) == () for key in keys)
        if plain and not hasattr(label.node, "feature"):
            return tuple(keys)
    else:
        node = _innermost(label.node)
        if hasattr(node, "names"):
            return tuple(node.names)
        shape = getattr(node, "shape", None)
        if shape is not None and len(shape) == 1 and shape[0]:
            return tuple(f"class_{index}" for index in range(shape[0]))
    found = " ".join(str(label.node).split())[:200]
    raise ValueError(
        f"config: data.label_feature is {label.path!r}, which is {found}; it must be class labels, "
        "or 0 and 1 for each class"
    )


def _keys(node: Any) -> list[str]:
    """The keys of a dictionary, or of a sequence of dictionaries."""
    return list(node.keys()) if hasattr(node, "keys") else []


def _innermost(node: Any) -> Any:
    """The feature inside a sequence, or inside nested sequences."""
    while hasattr(node, "feature"):
        node = node.feature
    return node


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

    shards: paths of the TFRecord files.
    sizes: their sizes in bytes.
    """

    classes: tuple[str, ...]
    shards: list[str]
    sizes: list[int]
    names: list[str]
    splits: list[str]
    shard: np.ndarray
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
    positions = zip(index.names, index.shard, index.offset, index.size, strict=True)
    sources = {
        name: Part(f"{folder}/{name}", index.shards[shard], int(offset), int(size))
        for name, shard, offset, size in positions
    }
    return make_table(
        entries(folder, "images", index.names),
        index.labels,
        index.classes,
        folder,
        splits=None if "[" in dataset.name else tuple(index.splits),
        sources=sources,
    )


def _build(dataset: TfdsSet) -> _Index:
    info, splits = _open(dataset)
    reader = _Reader(info.features, dataset)
    for split in splits:
        reader.read(split, [os.fspath(path) for path in info.splits[split].filepaths])
    return reader.index()


class _Reader:
    """Reads TFRecord files of tf.train.Example, whose keys are the paths of features."""

    def __init__(self, features: Any, dataset: TfdsSet):
        self._dataset = dataset
        self._image = find_feature(features, dataset.image, "data.image_feature")
        self._label = find_feature(features, dataset.label, "data.label_feature")
        self._classes = find_classes(self._label)
        name_feature = f"{dataset.image}/filename"
        self._names = name_feature if name_feature in features else ""
        self._parse = importlib.import_module("tensorflow_datasets.proto").tf_example_pb2.Example
        self._shards: list[str] = []
        self._rows: list[tuple[str, str, int, int, int]] = []  # as the fields of _Index
        self._labels: list[np.ndarray] = []

    def read(self, split: str, paths: list[str]) -> None:
        """Adds the images of a split, given the paths of its files."""
        labels: list[np.ndarray] = []
        for path in paths:
            for start, record in _records(path):
                features = self._parse.FromString(record).features.feature
                images = features[self._image.key].bytes_list.value
                if len(images) != 1:
                    raise ValueError(
                        f"{self._dataset.name}: data.image_feature={self._dataset.image!r} has "
                        f"{len(images)} images in a record instead of one; use another feature"
                    )
                contents = images[0]
                name = self._name(features, contents, len(labels))
                name = posixpath.normpath(f"{split}/{name}".replace("\\", "/"))
                offset = start + record.find(contents)
                self._rows.append(
                    (name, _SPLITS.get(split, split), len(self._shards), offset, len(contents))
                )
                labels.append(self._label_row(features, name))
            self._shards.append(path)
        withheld = not any((row == 1).any() for row in labels)
        self._labels += [np.full_like(row, UNKNOWN) for row in labels] if withheld else labels

    def index(self) -> _Index:
        """The index of all images read."""
        if not self._rows:
            raise ValueError(f"{self._dataset.name}: its splits have no images; use other splits")
        names, splits, *positions = zip(*self._rows, strict=True)
        shard, offset, size = (np.array(column, np.int64) for column in positions)
        return _Index(
            classes=self._classes,
            shards=self._shards,
            sizes=_sizes(self._shards),
            names=list(names),
            splits=list(splits),
            shard=shard,
            offset=offset,
            size=size,
            labels=np.stack(self._labels),
        )

    def _name(self, features: Any, contents: bytes, number: int) -> str:
        if self._names:
            return features[self._names].bytes_list.value[0].decode()
        return f"{number:08d}.{_EXTENSIONS.get(contents[:2], 'tif')}"

    def _label_row(self, features: Any, name: str) -> np.ndarray:
        count = len(self._classes)
        if not self._label.is_index:
            values = np.array([v for key in self._label.keys for v in _numbers(features, key)])
            if len(values) != count or not np.isin(values, (0, 1, UNKNOWN)).all():
                raise ValueError(
                    f"{self._dataset.name}: {name}: the labels are "
                    f"{' '.join(str(values).split())}; expected {count} values of 0, 1 or -1; use "
                    "another data.label_feature"
                )
            return values.astype(np.int8)
        classes = _numbers(features, self._label.key)
        if any(index < 0 for index in classes):  # TFDS also represents withheld labels like this
            return np.full(count, UNKNOWN, np.int8)
        values = self._object_labels(features, len(classes))
        return object_labels([0] * len(classes), classes, values, (1, count))[0]

    def _object_labels(self, features: Any, count: int) -> list[int]:
        """The label of each object, by the policy and the features next to its class."""
        owner, arguments = self._label.owner, [{} for _ in range(count)]
        for feature, argument in _POLICY_FEATURES.items():
            values = _numbers(features, f"{owner}{feature}") if owner else []
            for given, value in zip(arguments, values, strict=False):
                given[argument] = value
        return [self._dataset.policy.label(**given) for given in arguments]


def _numbers(features: Any, key: str) -> list:
    """The numbers of one feature in a tf.train.Example; [] if it is absent."""
    if key not in features:
        return []
    return list(features[key].int64_list.value) or list(features[key].float_list.value)


def _records(path: str) -> Iterator[tuple[int, bytes]]:
    """The offset and the bytes of each record of a TFRecord file."""
    position, opening = 0, file_system_of(path).open if is_remote(path) else open
    with opening(path, "rb") as file:
        while head := file.read(_LENGTH.size):
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else -1
            start = position + _LENGTH.size
            record = file.read(length) if 0 <= length < 2**31 else b""
            if length < 0 or len(record) != length or len(file.read(_CHECKSUM)) != _CHECKSUM:
                raise ValueError(
                    f"{path}: the file ends inside a record, or is not a TFRecord file; prepare "
                    "the data set again"
                )
            yield start, record
            position = start + length + _CHECKSUM


def _open(dataset: TfdsSet) -> tuple[Any, list[str]]:
    """The data set's DatasetInfo, and the splits to read."""
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
    if info.file_format.value != "tfrecord":
        raise ValueError(
            f"{dataset.name} is prepared as {info.file_format.value}; prepare it with "
            "file_format='tfrecord' in another folder, and set data.images to that folder"
        )
    available = list(info.splits)
    splits = match[2].split("+") if match[2] else [name for name in _SPLITS if name in available]
    if missing := set(splits or _SPLITS) - set(available):
        raise ValueError(
            f"{dataset.name}: no split {', '.join(sorted(missing))}; choose from "
            f"{quoted(available)}, as in {match[1]}[{available[0]}]"
        )
    return info, splits


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
            columns = {name: arrays[name] for name in ("shard", "offset", "size", "labels")}
            index = _Index(classes=tuple(arrays["classes"].tolist()), **lists, **columns)
        return index if _sizes(index.shards) == index.sizes else None
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _sizes(shards: list[str]) -> list[int]:
    """The sizes in bytes of files in one folder; -1 for a missing file."""
    found = file_sizes(os.path.dirname(shards[0]))
    return [found.get(os.path.basename(path), -1) for path in shards]
