"""Splits images into train, val and test: by a CSV column, by separate CSVs, or at random.

A run saves its splits as `splits.csv` and reads them from there when it continues.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlcls_jax.config import Data
from mlcls_jax.config.schema import has_folds
from mlcls_jax.data.folds import into_folds
from mlcls_jax.data.groups import noting_shares
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.oversampling import oversampled
from mlcls_jax.data.readers.corrections import read_corrections
from mlcls_jax.data.readers.read_table import has_folder, read_table
from mlcls_jax.data.saved_splits import read_splits
from mlcls_jax.data.split_tables import assembled, separate_tables
from mlcls_jax.data.stratification import draw_splits
from mlcls_jax.system.console import quoted
from mlcls_jax.system.remote import is_remote


def load_splits(data: Data, saved: str | Path | None = None) -> dict[str, LabelTable]:
    """Reads the labels and splits them, or applies the saved splits of a run.

    Args:
      data: the sources and how to split them. The image folders of val_csv and test_csv default to
        data.images. The classes of all tables get the order of data.csv.
      saved: the `splits.csv` of a run to apply; None draws the splits. It is not written here.

    Returns:
      "train", "val" and, if there is one, "test", all with the same classes in the same order. With
      data.folds, val is the fold data.fold; without data.fold, train has all folds, and there is no
      val. The labels are those of data.corrections. Train has the repeats of data.oversample.

    Raises:
      ValueError: as in `read_table`, `make_splits`, `read_splits` and `read_corrections`.
    """
    splits = _read_or_draw(data, saved)
    if data.corrections:
        splits = read_corrections(data.corrections).applied(splits)
    return oversampled(splits, data)


def _read_or_draw(data: Data, saved: str | Path | None) -> dict[str, LabelTable]:
    """The splits without repeats; see `load_splits`."""

    def read(
        prefix: str, place: str, images: str, classes: tuple[str, ...] | None = None
    ) -> LabelTable:
        if data.source == "csv" and images and not has_folder(data, place):
            if not is_remote(images) and Path(images).is_file():
                raise ValueError(
                    f"config: data.{prefix}csv is the folder {place!r} and data.{prefix}images the "
                    f"file {images!r}; exchange them"
                )
            raise ValueError(
                f"config: data.{prefix}images is {images!r}, but data.{prefix}csv is a packed data "
                f"set or a folder, which contains its images; set data.{prefix}images=''"
            )
        folder = images or (data.images if has_folder(data, place) or data.source == "tfds" else "")
        return read_table(data, place, folder, classes=classes)

    train = read("", data.csv, data.images)
    val = read("val_", data.val_csv, data.val_images, train.classes) if data.val_csv else None
    test = read("test_", data.test_csv, data.test_images, train.classes) if data.test_csv else None
    if data.folds:
        train = _without_val(train)
    if saved is not None:
        return read_splits(saved, train, val, test, whole=has_folds(data))
    if data.folds:
        pool = draw_pool(train, test, data.test_fraction, data.split_seed)
        if has_folds(data):
            return pool
        return into_folds(pool, data.folds, data.split_seed).splits_of(data.fold)
    return make_splits(
        train,
        val,
        test,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        seed=data.split_seed,
    )


def draw_pool(
    train: LabelTable, test: LabelTable | None, test_fraction: float, seed: int
) -> dict[str, LabelTable]:
    """Splits off test, and leaves the images that folds divide.

    Args:
      train: all images, or those that are not in `test`; its column may name test rows.
      test: the images of a separate CSV, or None.
      test_fraction, seed: see `make_splits`.

    Returns:
      "train", the images of all folds, and "test" if there is one.

    Raises:
      ValueError: as in `make_splits`.
    """
    given = separate_tables(train, None, test)
    names, rows = _named(train)
    if "test" not in {*names.tolist(), *given} and test_fraction:
        shares = {"test": test_fraction}
        names[rows] = draw_splits(train.take(rows), shares, seed)
        train = noting_shares(train, names[rows], shares)
    return assembled(train, names, given)


def _without_val(table: LabelTable) -> LabelTable:
    """Returns the table with its val rows in train, which the folds divide, and says so."""
    if table.splits is None or "val" not in table.splits:
        return table
    count = table.splits.count("val")
    note = (
        f"data.folds: the {count} images that the split column names val are in the folds as well"
    )
    names = tuple("train" if name == "val" else name for name in table.splits)
    return replace(table, splits=names, notes=(*table.notes, note))


def make_splits(
    train: LabelTable,
    val: LabelTable | None = None,
    test: LabelTable | None = None,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[str, LabelTable]:
    """Splits by separate tables, by the split column, or at random.

    If neither a table nor the column names val rows, val is drawn from the train rows. The same
    holds for test if `test_fraction` is above 0. Rows that the column names val or test are kept.

    Args:
      train: all images, or those that are not in `val` and `test`.
      val, test: the images of separate CSVs, or None.
      val_fraction: the share of the train rows that is drawn for val, in (0, 1).
      test_fraction: the share of the train rows that is drawn for test, in [0, 1); 0: no test.
      seed: the seed of the draw; see `draw_splits`.

    Returns:
      "train", "val" and, if there is one, "test", each in the order of its table.

    Raises:
      ValueError: the draw is impossible, classes differ, an image is in two splits, or the split
        column has no train rows or contradicts the separate CSVs.

    >>> labels = np.array([[1, 0], [0, 1]] * 4, np.int8)
    >>> table = LabelTable("images", tuple("abcdefgh"), labels, ("cat", "dog"))
    >>> splits = make_splits(table, val_fraction=0.25, test_fraction=0.0, seed=0)
    >>> {split: part.filenames for split, part in splits.items()}
    {'train': ('a', 'b', 'c', 'd', 'g', 'h'), 'val': ('e', 'f')}
    """
    given = separate_tables(train, val, test)
    names, pool = _named(train)
    named = {*names.tolist(), *given}
    shares = {}
    if "test" not in named and test_fraction != 0:
        shares["test"] = test_fraction
    if "val" not in named:
        shares["val"] = val_fraction
    names[pool] = draw_splits(train.take(pool), shares, seed)
    return assembled(noting_shares(train, names[pool], shares), names, given)


def check_train(splits: Mapping[str, LabelTable]) -> list[str]:
    """Returns a warning for each split that has classes without positive or negative labels.

    Args:
      splits: the table of each split.

    Raises:
      ValueError: all labels of train are unknown.

    >>> train = LabelTable("images", ("a",), np.array([[1, 0]], np.int8), ("cat", "dog"))
    >>> for warning in check_train({"train": train}):
    ...     print(warning)
    No positive label in train (1 images) for 1 of 2 classes, which cannot be learned: 'dog'.
    No negative label in train (1 images) for 1 of 2 classes, which cannot be learned: 'cat'.
    """
    if (splits["train"].labels == UNKNOWN).all():
        raise ValueError(
            f"all labels of train ({len(splits['train'])} images) are empty or -1, so there is "
            "nothing to learn; write 1 if the class is in the image and 0 if it is not"
        )
    warnings = []
    for split, table in splits.items():
        for kind, counts, consequence in (
            ("positive", table.positives, "excluded from the {} metrics"),
            ("negative", table.known - table.positives, "whose {} average precision is always 1"),
        ):
            # A class without any known label has no positive label either, and is named once.
            lacking = (counts == 0) & ((table.known > 0) | (kind == "positive"))
            empty = [table.classes[i] for i in np.flatnonzero(lacking)]
            if empty:
                result = (
                    "which cannot be learned" if split == "train" else consequence.format(split)
                )
                warnings.append(
                    f"No {kind} label in {split} ({len(table)} images) for {len(empty)} of "
                    f"{len(table.classes)} classes, {result}: {quoted(empty, len(empty))}."
                )
    return warnings


def _named(train: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """The split that the column names for each row, str [n], and the indices of the train rows."""
    names = np.array(train.splits if train.splits is not None else ["train"] * len(train))
    rows = np.flatnonzero(names == "train")
    if not len(rows):
        raise ValueError("the split column has no train rows; write train in some rows")
    return names, rows
