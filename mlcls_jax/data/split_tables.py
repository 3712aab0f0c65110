"""The tables of the splits of a run: with the same classes, and without common images or groups."""

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mlcls_jax.data.groups import check_groups, proposed_groups
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.system.console import quoted

SPLITS = ("train", "val", "test")


def separate_tables(
    train: LabelTable, val: LabelTable | None, test: LabelTable | None
) -> dict[str, LabelTable]:
    """Returns the tables of val and test that have CSVs of their own, by split.

    Their classes get the order of train's.

    Raises:
      ValueError: one has other classes, or names another split in its split column.
    """
    files = {"train": train, "val": val, "test": test}
    given = {split: table for split, table in files.items() if table is not None}
    if len(given) == 1:
        return {}
    for split, table in given.items():
        others = sorted(set(table.splits or ()) - {split})
        if others:
            raise ValueError(
                f"the CSV of {split} has {others[0]} in its split column, but the splits have "
                "separate CSVs; correct the column, or remove it and set data.split_column=''"
            )
    return {
        split: table.with_classes(train.classes, f"the CSV of {split}", "the CSV of train")
        for split, table in given.items()
        if split != "train"
    }


def assembled(
    train: LabelTable, names: np.ndarray, given: dict[str, LabelTable]
) -> dict[str, LabelTable]:
    """Returns all splits in the order of SPLITS.

    Args:
      train: n images, of all splits without a table of their own.
      names: str [n], the split of each of them.
      given: tables of the other splits.

    Raises:
      ValueError: an image or a group is in two splits.
    """
    rows = {split: np.flatnonzero(names == split) for split in SPLITS}
    splits = {split: train.take(rows[split]) for split in SPLITS if len(rows[split])} | given
    splits = {split: splits[split] for split in SPLITS if split in splits}
    _check_disjoint(splits)
    check_groups(splits)
    note = proposed_groups(splits) if train.groups is None else ""
    if note and "train" in splits:
        splits["train"] = replace(splits["train"], notes=(*splits["train"].notes, note))
    return splits


def _check_disjoint(splits: Mapping[str, LabelTable]) -> None:
    owner: dict[str, str] = {}
    for split, table in splits.items():
        folder = os.path.realpath(table.folder)
        keys = [os.path.join(folder, name) for name in table.filenames]
        twice = [
            (owner[key], name)
            for key, name in zip(keys, table.filenames, strict=True)
            if key in owner
        ]
        if twice:
            raise ValueError(
                f"{len(twice)} images are in both {twice[0][0]} and {split}: "
                f"{quoted(name for _, name in twice)}; remove them from one of the CSVs"
            )
        owner |= dict.fromkeys(keys, split)
