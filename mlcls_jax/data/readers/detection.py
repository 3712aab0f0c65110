"""From the objects of images to labels: what data sets for detection have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.readers.csv_cells import Column

SAYS = {"present": 1, "unknown": UNKNOWN, "absent": 0}


@dataclass(frozen=True)
class AnnotationPolicy:
    """What objects say that are in doubt: a key of SAYS each, see `config.Data`."""

    crowd: str
    difficult: str
    min_area: float

    def says(self, *, crowd: bool = False, difficult: bool = False, area: float = np.inf) -> int:
        """1, UNKNOWN or 0: what an object says about its class; the least of what applies.

        area: in square pixels.
        """
        said = [1]
        if crowd:
            said.append(SAYS[self.crowd])
        if difficult:
            said.append(SAYS[self.difficult])
        if area < self.min_area:
            said.append(UNKNOWN)
        return 0 if 0 in said else min(said)


@dataclass(frozen=True, eq=False)
class Entries(Column):
    """File names from a list that is no CSV's; `name` is what an entry is called there."""

    def where(self, *cells: int) -> str:
        """The entries' place in the file."""
        return " and ".join(f"{self.name}[{self.rows[i]}]" for i in cells)


def entries(path: str | Path, name: str, names: Sequence[str]) -> Entries:
    """The file names of a list, counted from 0."""
    numbers = np.arange(len(names))
    return Entries(Path(path), name, numbers, numbers, tuple(names))


def object_labels(
    images: Sequence[int], classes: Sequence[int], says: Sequence[int], shape: tuple[int, int]
) -> np.ndarray:
    """Labels of images by their objects: one that says 1 outdoes those that say UNKNOWN, and
    these outdo 0.

    Args:
      images, classes, says: of each object, its image's index, its class's, and 1, UNKNOWN
        or 0.
      shape: (images, classes).

    Returns:
      int8 of that shape; 0 where there is no object.
    """
    labels = np.zeros(shape, np.int8)
    where = np.asarray(images, np.int64), np.asarray(classes, np.int64)
    said = np.asarray(says, np.int64)
    for value in (UNKNOWN, 1):
        rows, columns = (index[said == value] for index in where)
        labels[rows, columns] = value
    return labels
