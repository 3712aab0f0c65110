"""The label table: file names, classes and multi-hot labels."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlcls_jax.data.readers.csv_cells import quoted

UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Images and what is on them.

    filenames: n paths relative to `folder`, with `/` between folders on every system.
    labels: int8 [n, c] of 1 (there), 0 (not there) and UNKNOWN (-1, nobody has looked).
    classes: c names, in the order of the columns of `labels`.
    splits: "train", "val" or "test" per image where the CSV has a split column, else None.
    sources: by file name, the path to read the image from where that is not a file in `folder`.
    """

    folder: str | Path
    filenames: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: tuple[str, ...] | None = None
    sources: Mapping[str, str] | None = None

    def __len__(self) -> int:
        return len(self.filenames)

    @property
    def paths(self) -> list[str]:
        """n paths for `read_file`, `folder` included."""
        if self.sources is not None:
            return [self.sources[name] for name in self.filenames]
        return [os.path.join(self.folder, name) for name in self.filenames]

    @property
    def positives(self) -> np.ndarray:
        """int64 [c]: images on which the class is known to be there."""
        return np.asarray((self.labels == 1).sum(axis=0, dtype=np.int64))

    @property
    def known(self) -> np.ndarray:
        """int64 [c]: images of which it is known whether the class is there."""
        return np.asarray((self.labels != UNKNOWN).sum(axis=0, dtype=np.int64))

    @property
    def frequencies(self) -> np.ndarray:
        """float64 [c]: positives / known; 0 for a class of which nothing is known."""
        return self.positives / np.maximum(self.known, 1)

    def take(self, rows: Iterable[int] | np.ndarray) -> "LabelTable":
        """The given rows, in the given order. rows: n' indices into the table."""
        rows = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            filenames=tuple(self.filenames[i] for i in rows),
            labels=self.labels[rows],
            splits=None if self.splits is None else tuple(self.splits[i] for i in rows),
        )

    def with_classes(self, classes: Sequence[str], here: str, there: str) -> "LabelTable":
        """The same table with its classes in the order of `classes`.

        here, there: what to call the owners of this table's classes and of `classes` in the
        ValueError that names the differing classes when the two aren't the same set.
        """
        only_here = [name for name in self.classes if name not in set(classes)]
        only_there = [name for name in classes if name not in set(self.classes)]
        parts = [f"only in {here}: {quoted(only_here)}"] if only_here else []
        parts += [f"only in {there}: {quoted(only_there)}"] if only_there else []
        if parts:
            raise ValueError(
                f"{here} and {there} must name the same classes; {'; '.join(parts)}; "
                "rename or remove these"
            )
        order = [self.classes.index(name) for name in classes]
        return replace(self, classes=tuple(classes), labels=self.labels[:, order])
