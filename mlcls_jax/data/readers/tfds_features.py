"""Finds the image, the file name and the labels of a TFDS example.

TFDS itself reads the examples; this module knows which features to ask it for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.readers.detection import AnnotationPolicy, object_labels
from mlcls_jax.system.console import quoted

# Arguments of AnnotationPolicy.label, by the feature next to the label that holds them.
_POLICY_FEATURES = {"is_crowd": "crowd", "is_difficult": "difficult", "area": "area"}


@dataclass(frozen=True)
class Feature:
    """A feature, and where it is in an example.

    path: the path as given in the config.
    node: the object of tfds.features.
    keys: the keys of the nested dictionaries of an example that lead to it.
    owner: the dictionary that contains it.
    in_list: whether an example has any number of it.
    """

    path: str
    node: Any
    keys: tuple[str, ...]
    owner: Any
    in_list: bool

    @property
    def is_index(self) -> bool:
        """Whether its values are class indices, and not 0 or 1 for each class."""
        return hasattr(_innermost(self.node), "names")

    def value(self, example: dict) -> Any:
        """Returns its value in an example."""
        for key in self.keys:
            example = example[key]
        return example


def find_feature(features: Any, path: str, field: str) -> Feature:
    """Returns the feature at a path such as objects/label; keys may contain slashes.

    Args:
      features: the data set's FeaturesDict.
      path: keys separated by slashes.
      field: the config field that error messages name.

    Raises:
      ValueError: there is no such feature, or it is in a list of lists.
    """
    node, owner, rest, depth, found = features, features, path, 0, []
    while rest:
        keys = _keys(node)
        fitting = [key for key in keys if rest == key or rest.startswith(f"{key}/")]
        if not fitting:
            raise ValueError(
                f"config: {field} is {path!r}, but the data set has no such feature; use one of "
                f"{quoted(keys)}"
            )
        key = max(fitting, key=len)
        found.append(key)
        owner, node, rest = node, node[key], rest[len(key) + 1 :]
        depth += hasattr(node, "feature")
    if depth > 1 or hasattr(getattr(node, "feature", None), "feature"):
        raise ValueError(
            f"config: {field} is {path!r}, which is in a list of lists; use another feature"
        )
    return Feature(path, node, tuple(found), owner, depth > 0)


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
    raise ValueError(
        f"config: data.label_feature is {label.path!r}, which is {_kind(label)}; it must be class "
        "labels, or 0 and 1 for each class"
    )


def find_image(features: Any, path: str, image_type: type) -> Feature:
    """Returns the feature with the image.

    Args:
      features: the data set's FeaturesDict.
      path: data.image_feature.
      image_type: tfds.features.Image.

    Raises:
      ValueError: there is no such feature, or it is not one image.
    """
    image = find_feature(features, path, "data.image_feature")
    if image.in_list or not isinstance(image.node, image_type):
        raise ValueError(
            f"config: data.image_feature is {path!r}, which is {_kind(image)}; it must be one "
            "image per example"
        )
    return image


class Labeller:
    """Gives the labels of examples.

    classes: the class names, in the order of the labels.
    keys: for each feature that it reads, the keys that lead to it.
    """

    def __init__(self, features: Any, path: str, policy: AnnotationPolicy):
        """Finds the features.

        Args:
          features: the data set's FeaturesDict.
          path: data.label_feature.
          policy: how crowds, difficult and small objects count.

        Raises:
          ValueError: there is no such feature, or it does not hold classes.
        """
        self._label = find_feature(features, path, "data.label_feature")
        self.classes = find_classes(self._label)
        self._policy = policy
        self._details = _details(self._label)
        self.keys = [feature.keys for feature in (self._label, *self._details)]

    def labels(self, example: dict) -> np.ndarray:
        """Returns the labels of an example: int8 [class], 1, 0 or UNKNOWN.

        Args:
          example: nested dictionaries of values.

        Raises:
          ValueError: the values are not labels.
        """
        count, value = len(self.classes), self._label.value(example)
        if not self._label.is_index:
            names = _keys(self._label.node)
            values = np.ravel([value[name] for name in names] if names else value)
            if len(values) != count or not np.isin(values, (0, 1, UNKNOWN)).all():
                raise ValueError(
                    f"the labels are {' '.join(str(values).split())}; expected {count} values of "
                    "0, 1 or -1; use another data.label_feature"
                )
            return values.astype(np.int8)
        indices = [int(index) for index in np.ravel(value)]
        if any(index < 0 for index in indices):  # TFDS also represents withheld labels like this
            return np.full(count, UNKNOWN, np.int8)
        values = self._object_labels(example, len(indices))
        return object_labels([0] * len(indices), indices, values, (1, count))[0]

    def _object_labels(self, example: dict, count: int) -> list[int]:
        """The label of each object, by the policy and the features next to its class."""
        arguments: list[dict] = [{} for _ in range(count)]
        for feature in self._details:
            values = np.ravel(feature.value(example))
            for given, value in zip(arguments, values, strict=False):
                given[_POLICY_FEATURES[feature.keys[-1]]] = value
        return [self._policy.label(**given) for given in arguments]


def decoders(features: Any, keys: Sequence[tuple[str, ...]], skip: type) -> dict:
    """Returns the decoders of TFDS with which images that are not needed stay encoded.

    TFDS cannot skip the decoding of features in a list.

    Args:
      features: a FeaturesDict.
      keys: the keys that lead to each feature to decode.
      skip: tfds.decode.SkipDecoding.
    """
    found = {}
    for name in _keys(features):
        node, inner = features[name], [rest for first, *rest in keys if first == name]
        if not hasattr(node, "feature"):
            if _keys(node) and [] not in inner:
                found[name] = decoders(node, [tuple(rest) for rest in inner], skip)
            elif not inner:
                found[name] = skip()
    return found


def _details(label: Feature) -> list[Feature]:
    """The features next to the class of an object that the policy uses."""
    *above, _ = label.keys
    if not above or not label.is_index:
        return []
    owner = label.owner
    return [
        Feature(key, owner[key], (*above, key), owner, label.in_list)
        for key in _POLICY_FEATURES
        if key in _keys(owner)
    ]


def _kind(feature: Feature) -> str:
    """The type of a feature, for error messages."""
    return " ".join(str(feature.node).split())[:200]


def _keys(node: Any) -> list[str]:
    """The keys of a dictionary, or of a sequence of dictionaries."""
    return list(node.keys()) if hasattr(node, "keys") else []


def _innermost(node: Any) -> Any:
    """The feature inside a sequence, or inside nested sequences."""
    while hasattr(node, "feature"):
        node = node.feature
    return node
