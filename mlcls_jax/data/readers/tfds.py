"""Data sets of TensorFlow Datasets where TFDS has put them: nothing is copied.

The records are read once, for the labels and for where in its TFRecord file each image is, which
the cache keeps.  From then on, an image is one read at a known place, and a run needs neither TFDS
nor TensorFlow.
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
from mlcls_jax.data.readers.csv_labels import make_table
from mlcls_jax.data.readers.detection import AnnotationPolicy, entries, object_labels
from mlcls_jax.data.readers.storage import Part, file_sizes, file_system_of, is_remote
from mlcls_jax.system.files import cache_folder, replacing


@dataclass(frozen=True)
class Feature:
    """A feature, and under which keys its values are in a tf.train.Example.

    path: as it was asked for. node: of tfds.features. keys: one, or of a dictionary all.
    owner: path of the dictionary that it is in, with a slash, or "".
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
        """Whether its values are indices of classes, not 0 and 1 for each."""
        return hasattr(_innermost(self.node), "names")


def find_feature(features: Any, path: str, field: str) -> Feature:
    """The feature of a path such as objects/label, where a key may have a slash in it.

    Args:
      features: the data set's FeaturesDict.
      path: keys with slashes between them.
      field: of the config, for the error.

    Raises:
      ValueError: there is none.
    """
    node, rest, last, depth = features, path, "", 0
    while rest:
        keys = _keys(node)
        fitting = [key for key in keys if rest == key or rest.startswith(f"{key}/")]
        if not fitting:
            raise ValueError(f"config: {field} is {path!r}; there is no such feature among {keys}")
        last = max(fitting, key=len)
        node, rest = node[last], rest[len(last) + 1 :]
        depth += hasattr(node, "feature")
    if depth > 1 or hasattr(getattr(node, "feature", None), "feature"):
        raise ValueError(f"config: {field} is {path!r}, which is in lists of lists; name another")
    owner = path[: len(path) - len(last)]
    return Feature(path, node, tuple(f"{path}/{key}" for key in _keys(node)) or (path,), owner)


def find_classes(label: Feature) -> tuple[str, ...]:
    """Names of the classes, in the order of the labels; ValueError where it is about none."""
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
            return tuple(f"class_{number}" for number in range(shape[0]))
    found = " ".join(str(label.node).split())[:200]
    raise ValueError(
        f"config: data.label_feature is {label.path!r}, which is {found}; it must be classes, or 0 "
        "and 1 for each of them"
    )


def _keys(node: Any) -> list[str]:
    """Of a dictionary, or of a sequence of dictionaries."""
    return list(node.keys()) if hasattr(node, "keys") else []


def _innermost(node: Any) -> Any:
    """What a sequence, or a sequence of these, is of."""
    while hasattr(node, "feature"):
        node = node.feature
    return node


FORMAT = 1  # of the index
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_EXTENSIONS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}
_BESIDE = {"is_crowd": "crowd", "is_difficult": "difficult", "area": "area"}  # of Doubts.says
_LENGTH, _CHECKSUM = struct.Struct("<Q4x"), 4  # around a record: its length and checksums, unread


@dataclass(frozen=True)
class TfdsSet:
    """What is read of a data set.

    name: such as coco/2017, or with some of its splits, voc/2007[train+validation].
    data_dir: where TFDS keeps its data sets; "": its own default.
    image, label: features, see `config.Data`.
    """

    name: str
    data_dir: str
    image: str
    label: str
    policy: AnnotationPolicy


@dataclass
class _Index:
    """What a pass over the records finds; every field but the first three has an entry an image.

    shards: paths. sizes: of these, in bytes.
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


def read_tfds(wanted: TfdsSet) -> LabelTable:
    """The images of a data set, which TFDS downloads where it has not been.

    Of a split without a single positive label, such as COCO's test, nothing is known: that is how
    TFDS has images whose labels are withheld.

    Returns:
      A LabelTable, with names such as train/000000391895.jpg; with splits, unless the set's name
      says which to take.

    Raises:
      ValueError: a package is missing, there is no such data set, split or feature, or the records
        cannot be read.
    """
    file = _index_file(wanted)
    index = _load(file)
    if index is None:
        index = _build(wanted)
        _save(index, file)
    folder = os.path.dirname(index.shards[0])
    places = zip(index.names, index.shard, index.offset, index.size, strict=True)
    sources = {
        name: Part(f"{folder}/{name}", index.shards[shard], int(offset), int(size))
        for name, shard, offset, size in places
    }
    return make_table(
        entries(folder, "images", index.names),
        index.labels,
        index.classes,
        folder,
        splits=None if "[" in wanted.name else tuple(index.splits),
        sources=sources,
    )


def _build(wanted: TfdsSet) -> _Index:
    info, splits = _open(wanted)
    reader = _Reader(info.features, wanted)
    for split in splits:
        reader.read(split, [os.fspath(path) for path in info.splits[split].filepaths])
    return reader.index()


class _Reader:
    """Reads TFRecord files of tf.train.Example, whose keys are the paths of features."""

    def __init__(self, features: Any, wanted: TfdsSet):
        self._wanted = wanted
        self._image = find_feature(features, wanted.image, "data.image_feature")
        self._label = find_feature(features, wanted.label, "data.label_feature")
        self._classes = find_classes(self._label)
        named = f"{wanted.image}/filename"
        self._names = named if named in features else ""
        self._parse = importlib.import_module("tensorflow_datasets.proto").tf_example_pb2.Example
        self._shards: list[str] = []
        self._rows: list[tuple[str, str, int, int, int]] = []  # as the fields of _Index
        self._labels: list[np.ndarray] = []

    def read(self, split: str, paths: list[str]) -> None:
        """Adds the images of a split, which is in these files."""
        labels: list[np.ndarray] = []
        for path in paths:
            for start, record in _records(path):
                features = self._parse.FromString(record).features.feature
                images = features[self._image.key].bytes_list.value
                if len(images) != 1:
                    raise ValueError(
                        f"{self._wanted.name}: data.image_feature={self._wanted.image!r} has "
                        f"{len(images)} images in a record, not one; name another"
                    )
                contents = images[0]
                name = self._name(features, contents, len(labels))
                name = posixpath.normpath(f"{split}/{name}".replace("\\", "/"))
                place = len(self._shards), start + record.find(contents), len(contents)
                self._rows.append((name, _SPLITS.get(split, split), *place))
                labels.append(self._label_row(features, name))
            self._shards.append(path)
        withheld = not any((row == 1).any() for row in labels)
        self._labels += [np.full_like(row, UNKNOWN) for row in labels] if withheld else labels

    def index(self) -> _Index:
        """All that was read."""
        if not self._rows:
            raise ValueError(f"{self._wanted.name}: its splits have no images; name others")
        names, splits, *places = zip(*self._rows, strict=True)
        shard, offset, size = (np.array(column, np.int64) for column in places)
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
                    f"{self._wanted.name}: {name}: its labels are {' '.join(str(values).split())}; "
                    f"they must be {count} of 0, 1 and -1"
                )
            return values.astype(np.int8)
        classes = _numbers(features, self._label.key)
        if any(number < 0 for number in classes):  # TFDS's other way to withhold labels
            return np.full(count, UNKNOWN, np.int8)
        says = self._says(features, len(classes))
        return object_labels([0] * len(classes), classes, says, (1, count))[0]

    def _says(self, features: Any, count: int) -> list[int]:
        """What each object says, by the features beside its label."""
        owner, options = self._label.owner, [{} for _ in range(count)]
        for feature, option in _BESIDE.items():
            values = _numbers(features, f"{owner}{feature}") if owner else []
            for given, value in zip(options, values, strict=False):
                given[option] = value
        return [self._wanted.policy.says(**given) for given in options]


def _numbers(features: Any, key: str) -> list:
    """Of one feature in a tf.train.Example; none where it is absent."""
    if key not in features:
        return []
    return list(features[key].int64_list.value) or list(features[key].float_list.value)


def _records(path: str) -> Iterator[tuple[int, bytes]]:
    """Of each record of a TFRecord file, where it starts and its bytes."""
    position, opening = 0, file_system_of(path).open if is_remote(path) else open
    with opening(path, "rb") as file:
        while head := file.read(_LENGTH.size):
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else -1
            start = position + _LENGTH.size
            record = file.read(length) if 0 <= length < 2**31 else b""
            if length < 0 or len(record) != length or len(file.read(_CHECKSUM)) != _CHECKSUM:
                raise ValueError(f"{path}: it ends inside a record, or is none of TFRecord")
            yield start, record
            position = start + length + _CHECKSUM


def _open(wanted: TfdsSet) -> tuple[Any, list[str]]:
    """The data set's DatasetInfo, and which of its splits to read."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[([\w+]+)\])?", wanted.name)
    if not match:
        raise ValueError(
            f"{wanted.name!r} names no data set of TFDS; write it like coco/2017, or "
            "voc/2007[train+validation] for some of its splits"
        )
    try:
        tfds: Any = importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise ValueError(
            f"data.source='tfds' needs a package ({error}); install mlcls_jax[tfds]"
        ) from error
    try:
        builder = tfds.builder(match[1], data_dir=wanted.data_dir or None)
        builder.download_and_prepare()
        info = builder.info
    except Exception as error:  # TFDS raises errors of every library that it uses
        raise ValueError(f"{wanted.name}: {' '.join(str(error).split())[:300]}") from error
    if info.file_format.value != "tfrecord":
        raise ValueError(
            f"{wanted.name} is prepared as {info.file_format.value}; prepare it with "
            "file_format='tfrecord', in another data.images"
        )
    there = list(info.splits)
    splits = match[2].split("+") if match[2] else [name for name in _SPLITS if name in there]
    if missing := set(splits or _SPLITS) - set(there):
        raise ValueError(
            f"{wanted.name}: no split {', '.join(sorted(missing))}; name some of {there} like "
            f"{match[1]}[{there[0]}]"
        )
    return info, splits


def _index_file(wanted: TfdsSet) -> Path:
    settings = dataclasses.asdict(wanted) | {"format": FORMAT}
    settings["data_dir"] = wanted.data_dir or os.environ.get("TFDS_DATA_DIR", "")
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
    """The index of an earlier run, if it is whole and the record files are those of then."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            lists = {name: arrays[name].tolist() for name in ("shards", "sizes", "names", "splits")}
            places = {name: arrays[name] for name in ("shard", "offset", "size", "labels")}
            index = _Index(classes=tuple(arrays["classes"].tolist()), **lists, **places)
        return index if _sizes(index.shards) == index.sizes else None
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _sizes(shards: list[str]) -> list[int]:
    """Bytes of files in one folder; -1 for what is not there."""
    found = file_sizes(os.path.dirname(shards[0]))
    return [found.get(os.path.basename(path), -1) for path in shards]
