"""Features of a data set of TFDS by their path, and the classes that one of them is about."""

from dataclasses import dataclass
from typing import Any


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
