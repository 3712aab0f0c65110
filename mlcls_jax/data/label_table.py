"""The label table: file names, class names and multi-hot labels."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mlcls_jax.data.readers.cell_values import PRESENT, UNKNOWN
from mlcls_jax.data.sampling import Repeats
from mlcls_jax.system.console import quoted


def as_labels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the labels and the targets of a LabelTable.

    Args:
      values: int8 [n, c] of 1, 0 and UNKNOWN; or float32 [n, c] in [0, 1] or UNKNOWN.

    >>> as_labels(np.float32([[0.7, 0.2, UNKNOWN]]))[0].tolist()
    [[1, 0, -1]]
    """
    if values.dtype == np.int8:
        return values, None
    labels = np.where(values == UNKNOWN, UNKNOWN, values >= PRESENT).astype(np.int8)
    return labels, values


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Images and their labels.

    folder: the image folder.
    filenames: n paths relative to `folder`, with forward slashes on every system.
    labels: int8 [n, c]: 1 (present), 0 (absent) or UNKNOWN (-1, not annotated).
    classes: c names, in the order of the columns of `labels`.
    splits: "train", "val" or "test" per image; None without a split column.
    sources: the path to read each image from, by file name; None: the files are in `folder`.
    notes: how the label file was understood, one line each; none if it was as documented.
    targets: soft labels, float32 [n, c] in [0, 1] or UNKNOWN; None if all labels are 1 or 0.
      Training and the fitted temperature use them. `labels` has 1 where the target is at least
      PRESENT.
    groups: the group of each image (a patient, a video, a site), of which no two splits have a
      part; "": a group of its own. None without groups.
    repeats: how often each image is in an epoch, if this is train; None: once.
    """

    folder: str | Path
    filenames: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: tuple[str, ...] | None = None
    sources: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    targets: np.ndarray | None = None
    groups: tuple[str, ...] | None = None
    repeats: Repeats | None = None

    def __len__(self) -> int:
        return len(self.filenames)

    @cached_property
    def paths(self) -> list[str]:
        """The n paths to pass to `read_file`; not to be changed."""
        if self.sources is not None:
            return [self.sources[name] for name in self.filenames]
        return [os.path.join(self.folder, name) for name in self.filenames]

    @property
    def train_labels(self) -> np.ndarray:
        """The labels that training fits: `targets`, or `labels` if there are none."""
        return self.labels if self.targets is None else self.targets

    @property
    def positives(self) -> np.ndarray:
        """The number of images on which each class is present: int64 [c]."""
        return np.asarray((self.labels == 1).sum(axis=0, dtype=np.int64))

    @property
    def known(self) -> np.ndarray:
        """The number of images with a known label for each class: int64 [c]."""
        return np.asarray((self.labels != UNKNOWN).sum(axis=0, dtype=np.int64))

    @property
    def frequencies(self) -> np.ndarray:
        """Positives divided by known labels: float64 [c]; 0 for a class without known labels."""
        return self.positives / np.maximum(self.known, 1)

    @property
    def mean_targets(self) -> np.ndarray:
        """The mean of the known training labels of each class: float64 [c]; 0 if none is known.

        Each image counts as often as it is in an epoch.
        """
        known = self.train_labels != UNKNOWN
        values = np.where(known, self.train_labels, 0)
        if self.repeats is None:
            total, count = values.sum(axis=0, dtype=np.float64), known.sum(axis=0)
        else:
            total, count = (self.repeats.expected @ part for part in (values, known))
        return np.divide(total, count, out=np.zeros(len(self.classes)), where=count > 0)

    def take(self, rows: Iterable[int] | np.ndarray) -> "LabelTable":
        """Returns a table of the given rows, in the given order.

        Args:
          rows: indices into this table.
        """
        rows = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            filenames=tuple(self.filenames[i] for i in rows),
            labels=self.labels[rows],
            splits=None if self.splits is None else tuple(self.splits[i] for i in rows),
            targets=None if self.targets is None else self.targets[rows],
            groups=None if self.groups is None else tuple(self.groups[i] for i in rows),
            repeats=None if self.repeats is None else Repeats(self.repeats.factors[rows]),
        )

    def with_classes(self, classes: Sequence[str], owner: str, other: str) -> "LabelTable":
        """Returns the table with its classes in the order of `classes`.

        Args:
          classes: the same class names, in the new order.
          owner: what the error message calls this table, such as its file.
          other: what the error message calls the origin of `classes`.

        Raises:
          ValueError: the classes are not the same; names the classes that only one side has.
        """
        only_here = [name for name in self.classes if name not in set(classes)]
        only_other = [name for name in classes if name not in set(self.classes)]
        differences = [f"only in {owner}: {quoted(only_here)}"] if only_here else []
        differences += [f"only in {other}: {quoted(only_other)}"] if only_other else []
        if differences:
            raise ValueError(
                f"{owner} and {other} must have the same classes; {'; '.join(differences)}; "
                "rename or remove these"
            )
        order = [self.classes.index(name) for name in classes]
        return replace(
            self,
            classes=tuple(classes),
            labels=self.labels[:, order],
            targets=None if self.targets is None else self.targets[:, order],
        )
