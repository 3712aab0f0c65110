"""Turns annotated objects into labels of images, for the readers of detection data sets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.readers.cells import Column
from mlcls_jax.system.console import quoted

POLICY_LABELS = {"present": 1, "unknown": UNKNOWN, "absent": 0}


@dataclass(frozen=True)
class AnnotationPolicy:
    """How uncertain objects label an image; see `config.Data`.

    crowd, difficult: a key of POLICY_LABELS.
    min_area: objects below this many square pixels are unknown.
    """

    crowd: str
    difficult: str
    min_area: float

    def label(self, *, crowd: bool = False, difficult: bool = False, area: float = np.inf) -> int:
        """Returns the label that one object gives its class: 1, UNKNOWN or 0.

        If several rules apply, absent wins over unknown, and unknown over present.

        Args:
          crowd: whether the object is a crowd.
          difficult: whether the object is marked as difficult.
          area: in square pixels.
        """
        labels = [1]
        if crowd:
            labels.append(POLICY_LABELS[self.crowd])
        if difficult:
            labels.append(POLICY_LABELS[self.difficult])
        if area < self.min_area:
            labels.append(UNKNOWN)
        return 0 if 0 in labels else min(labels)


@dataclass(frozen=True, eq=False)
class Entries(Column):
    """File names from a list that is not a CSV; `name` is the name of the list."""

    def where(self, *cells: int) -> str:
        """Returns where the entries are, such as "images[3]"."""
        return " and ".join(f"{self.name}[{self.rows[i]}]" for i in cells)


def entries(path: str | Path, name: str, names: Sequence[str]) -> Entries:
    """Returns the file names of a list, numbered from 0.

    Args:
      path: the file that error messages name.
      name: what error messages call the list, such as "images".
      names: the file names.
    """
    numbers = np.arange(len(names))
    return Entries(Path(path), name, numbers, numbers, tuple(names))


def object_labels(
    images: Sequence[int], classes: Sequence[int], values: Sequence[int], shape: tuple[int, int]
) -> np.ndarray:
    """Returns the labels of images from the labels of their objects.

    If objects of one class disagree, 1 wins over UNKNOWN, and UNKNOWN over 0.

    Args:
      images: the image index of each object.
      classes: the class index of each object.
      values: the label of each object: 1, UNKNOWN or 0.
      shape: (number of images, number of classes).

    Returns:
      int8 of that shape; 0 where there is no object.
    """
    labels = np.zeros(shape, np.int8)
    indices = np.asarray(images, np.int64), np.asarray(classes, np.int64)
    codes = np.asarray(values, np.int64)
    for value in (UNKNOWN, 1):
        rows, columns = (index[codes == value] for index in indices)
        labels[rows, columns] = value
    return labels


def known_classes(
    found: Iterable[str], classes: Sequence[str] | None, source: str
) -> tuple[str, ...]:
    """Returns the class names of a data set: those of train, or else those that were found, sorted.

    Args:
      found: names of classes in the labels.
      classes: all class names, if they are known already.
      source: what has the labels, for the message, such as "a.json: has the choices".

    Raises:
      ValueError: a found name is not among the known ones.
    """
    names = sorted(set(found))
    columns = tuple(classes or names)
    if foreign := [name for name in names if name not in columns]:
        raise ValueError(
            f"{source} {quoted(foreign)}, which are not classes of train; add them to train, or "
            "remove them here"
        )
    return columns
