"""Pictures of a TFDS data set as encoded files, and its labels as columns of 0 and 1.

Only pack_dataset.py --tfds needs this, and with it TensorFlow (the extra `tfds`).
"""

import csv
import importlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_EXTENSIONS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}


@dataclass
class TfdsPictures:
    """One split of a data set.

    examples: each a dict, with the picture still encoded.
    image, label: paths of keys into an example.
    classes: of the label feature. is_index: whether it holds indices of classes, not 0 and 1.
    names: path of the feature with file names, or None: they are numbered.
    """

    split: str
    examples: Any
    image: tuple[str, ...]
    label: tuple[str, ...]
    classes: tuple[str, ...]
    is_index: bool
    names: tuple[str, ...] | None
    _rows: list[tuple[str, np.ndarray]] = field(default_factory=list)

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """File names and contents; keeps their labels for `labels`."""
        for number, example in enumerate(self.examples):
            contents = _get(example, self.image)
            if self.names:
                name = _get(example, self.names).decode()
            else:
                name = f"{self.split}_{number:08d}.{_EXTENSIONS.get(contents[:2], 'tif')}"
            self._rows.append((name, self._row(_get(example, self.label), name)))
            yield name, contents

    def labels(self) -> bytes:
        """The label CSV of the pictures that have been asked for."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["filename", *self.classes])
        writer.writerows([name, *row.tolist()] for name, row in self._rows)
        return text.getvalue().encode()

    def _row(self, value: Any, name: str) -> np.ndarray:
        if isinstance(value, dict):
            value = [value[key] for key in self.classes]
        values = np.atleast_1d(np.asarray(value))
        if not self.is_index:
            if not np.isin(values, (0, 1, -1)).all():
                raise ValueError(f"{name}: its labels are {values}; they must be 0, 1 or -1")
            return values.astype(np.int8)
        if (values < 0).any():  # TFDS's way to say that labels are withheld
            return np.full(len(self.classes), -1)
        row = np.zeros(len(self.classes), np.int8)
        row[values.astype(int)] = 1
        return row


def open_tfds(
    name: str, split: str, image: str, label: str, *, data_dir: str | None = None
) -> TfdsPictures:
    """Opens one split of a data set, which TFDS downloads where it has not been.

    Args:
        name: with its config and version, such as coco/2017.
        split: such as train, or train[:10%].
        image: the feature with the picture.
        label: the feature with class indices (objects/label), 0 and 1 per class, or a dict of
            them by name (attributes).
        data_dir: where TFDS keeps data sets; None: its own default.

    Raises:
        ValueError: a package is missing, or there is no such data set, split or feature.
    """
    try:
        tfds: Any = importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise ValueError(f"--tfds needs a package ({error}); install mlcls_jax[tfds]") from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
        features = builder.info.features
    except Exception as error:  # TFDS raises errors of every library that it uses
        raise ValueError(f"--tfds {name}: {_one_line(error)}") from error
    image_path = _find(features, image, "--image_feature")
    label_path = _find(features, label, "--label_feature")
    classes, is_index = _classes(tfds, _get(features, label_path), label)
    names = (f"{image}/filename",) if f"{image}/filename" in features else None
    decoders: Any = tfds.decode.SkipDecoding()
    for key in reversed(image_path):
        decoders = {key: decoders}
    config = tfds.ReadConfig(interleave_cycle_length=1)  # in the order of its files
    try:
        data = builder.as_dataset(split=split, decoders=decoders, read_config=config)
    except Exception as error:
        raise ValueError(f"--split {split}: {_one_line(error)}") from error
    examples = tfds.as_numpy(data)
    return TfdsPictures(split, examples, image_path, label_path, classes, is_index, names)


def _find(features: Any, path: str, flag: str) -> tuple[str, ...]:
    """The keys that lead to a feature; a key may have a slash in it."""
    found: list[str] = []
    node, rest = features, path
    while rest:
        keys = list(node.keys()) if hasattr(node, "keys") else []
        fitting = [key for key in keys if rest == key or rest.startswith(f"{key}/")]
        if not fitting:
            raise ValueError(f"{flag} {path}: there is no such feature; there are {keys}")
        found.append(max(fitting, key=len))
        node, rest = node[found[-1]], rest[len(found[-1]) + 1 :]
    return tuple(found)


def _get(node: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def _classes(tfds: Any, feature: Any, label: str) -> tuple[tuple[str, ...], bool]:
    """Names of the classes, and whether the feature holds indices of them."""
    if isinstance(feature, tfds.features.FeaturesDict):
        return tuple(feature.keys()), False
    while isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    if isinstance(feature, tfds.features.ClassLabel):
        return tuple(feature.names), True
    shape = getattr(feature, "shape", None)
    if shape is not None and len(shape) == 1 and shape[0]:
        return tuple(f"class_{number}" for number in range(shape[0])), False
    raise ValueError(
        f"--label_feature {label}: it is {_one_line(feature)}, neither classes nor 0 and 1 for each"
    )


def _one_line(value: object) -> str:
    return " ".join(str(value).split())[:300]
