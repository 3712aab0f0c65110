"""Images that are divided into folds, and the splits of the run of each fold."""

from dataclasses import dataclass

import numpy as np

from mlcls_jax.data.groups import noting_shares
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.oversampling import without_repeats
from mlcls_jax.data.stratification import draw_folds


@dataclass(frozen=True, eq=False)
class Folds:
    """Images that are divided into folds.

    pool: "train" with the images of all folds, and perhaps "test".
    fold: int64 [image], the fold of each image of train.
    """

    pool: dict[str, LabelTable]
    fold: np.ndarray

    @property
    def table(self) -> LabelTable:
        """The images of all folds."""
        return self.pool["train"]

    def splits_of(self, number: int) -> dict[str, LabelTable]:
        """Returns the splits of the run that is validated on one fold and trained on the others.

        They are without repeats, which depend on the images of train.

        Args:
          number: the fold to hold out, from 0.
        """
        held_out, table = self.fold == number, without_repeats(self.table)
        splits = {
            "train": table.take(np.flatnonzero(~held_out)),
            "val": table.take(np.flatnonzero(held_out)),
        }
        return splits | {split: part for split, part in self.pool.items() if split != "train"}


def into_folds(pool: dict[str, LabelTable], folds: int, seed: int) -> Folds:
    """Divides images into folds.

    Args:
      pool: from `draw_pool`; its "train" gets a note of each fold that large groups made uneven.
      folds, seed: see `draw_folds`.

    >>> labels = np.array([[1, 0], [0, 1]] * 4, np.int8)
    >>> table = LabelTable("images", tuple("abcdefgh"), labels, ("cat", "dog"))
    >>> splits = into_folds({"train": table}, folds=4, seed=0).splits_of(1)
    >>> {split: len(part) for split, part in splits.items()}
    {'train': 6, 'val': 2}
    """
    fold = draw_folds(pool["train"], folds, seed)
    shares = {f"fold {number}": 1 / folds for number in range(folds)}
    names = np.array(list(shares))[fold]
    return Folds(pool | {"train": noting_shares(pool["train"], names, shares)}, fold)
