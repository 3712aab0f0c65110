"""Which image is for training, validation or test: from a column, from files, or drawn.

Drawn or not, it is written to the run's `splits.csv` and read from there again.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mlcls_jax.config import Data
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_cells import quoted, quoting, read_csv
from mlcls_jax.data.readers.read_table import has_folder, read_table
from mlcls_jax.data.stratification import draw_splits
from mlcls_jax.system.files import write_text

SPLITS = ("train", "val", "test")
_AGAIN = "put the file back as it was, or start in another workdir"


def load_splits(data: Data, saved: str | Path | None = None) -> dict[str, LabelTable]:
    """Reads the label CSVs and splits them, or splits them again as a run did before.

    Args:
      data: where the CSVs or other sources are and how to split. The folders of val_csv and
        test_csv default to `images`. Their classes may be in another order than in `csv`, which
        decides.
      saved: a `splits.csv` to apply; nothing is drawn then. Never written here.

    Returns:
      "train", "val" and perhaps "test"; all with the same classes in the same order.

    Raises:
      ValueError: one line, see `read_labels`, `make_splits` and `read_splits`.
    """

    def read(
        prefix: str, place: str, images: str, classes: tuple[str, ...] | None = None
    ) -> LabelTable:
        if data.source == "csv" and images and not has_folder(data, place):
            raise ValueError(
                f"config: data.{prefix}images is {images!r}, but data.{prefix}csv is a packed data "
                f"set, which holds its images; set data.{prefix}images=''"
            )
        folder = images or (data.images if has_folder(data, place) or data.source == "tfds" else "")
        return read_table(data, place, folder, classes=classes)

    train = read("", data.csv, data.images)
    val = read("val_", data.val_csv, data.val_images, train.classes) if data.val_csv else None
    test = read("test_", data.test_csv, data.test_images, train.classes) if data.test_csv else None
    if saved is not None:
        return read_splits(saved, train, val, test)
    return make_splits(
        train,
        val,
        test,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        seed=data.split_seed,
    )


def make_splits(
    train: LabelTable,
    val: LabelTable | None = None,
    test: LabelTable | None = None,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[str, LabelTable]:
    """Splits by tables of their own, by the split column, or else by a draw from train's rows.

    Where neither a table nor the column names val rows, val is drawn from the train rows, and so
    is test if `test_fraction` is above 0. Rows that are named val or test are never touched.

    Args:
      train: all images, or those that `val` and `test` leave.
      val, test: their images where they have CSVs of their own, else None.
      val_fraction: share for val of the rows that are drawn from, in (0, 1).
      test_fraction: share for test of the same rows, in [0, 1); 0 makes no test split.
      seed: of the draw, see `draw_splits`.

    Returns:
      "train", "val" and perhaps "test", the rows of each in the order of its table.

    Raises:
      ValueError: an impossible draw, differing classes, the same image in two splits, or a split
        column that has no train rows or says something else than the file.
    """
    given = _given(train, val, test)
    names = np.array(train.splits if train.splits is not None else ["train"] * len(train))
    pool = np.flatnonzero(names == "train")
    if not len(pool):
        raise ValueError("the split column has no train rows; write train in some of them")
    named = {*names.tolist(), *given}
    wanted = {}
    if "test" not in named and test_fraction != 0:
        wanted["test"] = test_fraction
    if "val" not in named:
        wanted["val"] = val_fraction
    names[pool] = draw_splits(train.take(pool), wanted, seed)
    return _assembled(train, names, given)


def write_splits(path: str | Path, splits: Mapping[str, LabelTable]) -> None:
    """Writes columns `filename` and `split`."""
    rows = [(name, split) for split, table in splits.items() for name in table.filenames]
    frame = pd.DataFrame(rows, columns=["filename", "split"], dtype=str)
    # Names exactly as they are, formulas or not: it is read again, and by us.
    quotes = quoting(name for name, _ in rows)
    write_text(Path(path), frame.to_csv(index=False, lineterminator="\n", quoting=quotes))


def read_splits(
    path: str | Path,
    train: LabelTable,
    val: LabelTable | None = None,
    test: LabelTable | None = None,
) -> dict[str, LabelTable]:
    """Applies a `splits.csv` to the tables it was made from.

    A split that has a table of its own takes exactly that table's rows; the others divide
    `train`. So a name that is in two folders is no ambiguity.

    Returns:
      As `make_splits` returned when the file was written.

    Raises:
      ValueError: an unreadable file, or rows that don't match the tables: the labels have changed
        since, and scores on other images would not compare.
    """
    given = _given(train, val, test)
    saved = _saved_names(path)
    drawn: dict[str, str] = {}
    for split in SPLITS:
        if split not in given:
            twice = [name for name in saved[split] if name in drawn]
            if twice:
                raise ValueError(
                    f"{path}: {quoted(twice)} in both {drawn[twice[0]]} and {split}; {_AGAIN}"
                )
            drawn |= dict.fromkeys(saved[split], split)
    for split, table in given.items():
        _check_same_images(path, saved[split], table, f"the CSV of {split}")
    _check_same_images(path, drawn, train, "the label CSV")
    names = np.array([drawn[name] for name in train.filenames])
    if train.splits is not None and not given:
        _check_column(path, train, names)
    splits = _assembled(train, names, given)
    if missing := [name for name in ("train", "val") if name not in splits]:
        raise ValueError(f"{path}: no row is {missing[0]}; {_AGAIN}")
    return splits


def check_train(splits: Mapping[str, LabelTable]) -> list[str]:
    """Warnings: for each split, one sentence naming the classes without any positive label.

    Raises:
      ValueError: no label of train is known, so there is nothing to learn.
    """
    if (splits["train"].labels == UNKNOWN).all():
        raise ValueError(
            f"all labels of train ({len(splits['train'])} images) are empty or -1, so there is "
            "nothing to learn; write 1 where the class is in the image and 0 where it is not"
        )
    consequences = {
        "train": "nothing can be learned about them",
        "val": "they are left out of the val metrics",
        "test": "they are left out of the test metrics",
    }
    warnings = []
    for split, table in splits.items():
        empty = [table.classes[i] for i in np.flatnonzero(table.positives == 0)]
        if empty:
            warnings.append(
                f"{len(empty)} of {len(table.classes)} classes have no positive label in {split} "
                f"({len(table)} images), {consequences[split]}: {quoted(empty, len(empty))}."
            )
    return warnings


def _given(
    train: LabelTable, val: LabelTable | None, test: LabelTable | None
) -> dict[str, LabelTable]:
    """The tables beside train's, with train's classes."""
    files = {"train": train, "val": val, "test": test}
    given = {split: table for split, table in files.items() if table is not None}
    if len(given) == 1:
        return {}
    for split, table in given.items():
        others = sorted(set(table.splits or ()) - {split})
        if others:
            raise ValueError(
                f"the CSV of {split} says {others[0]} in its split column, but {split} has a file "
                "of its own; correct the column, or set data.split_column='' and remove it"
            )
    return {
        split: table.with_classes(train.classes, f"the CSV of {split}", "the CSV of train")
        for split, table in given.items()
        if split != "train"
    }


def _assembled(
    train: LabelTable, names: np.ndarray, given: dict[str, LabelTable]
) -> dict[str, LabelTable]:
    """All splits in their usual order. names: str [n], the split of each row of train's table."""
    rows = {split: np.flatnonzero(names == split) for split in SPLITS}
    splits = {split: train.take(rows[split]) for split in SPLITS if len(rows[split])} | given
    splits = {split: splits[split] for split in SPLITS if split in splits}
    _check_disjoint(splits)
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


def _saved_names(path: str | Path) -> dict[str, dict[str, None]]:
    """The file names of each split, in the file's order."""
    if not Path(path).exists():
        raise ValueError(f"{path} is missing, which says what was trained on; {_AGAIN}")
    saved = read_csv(path)
    names, splits = saved.column("filename", _AGAIN), saved.column("split", _AGAIN)
    rows = list(zip(names.texts, splits.texts, strict=True))
    for i, (_, split) in enumerate(rows):
        if split not in SPLITS:
            raise splits.error(i, f"{split!r} is no split; write train, val or test")
    names.check_unique(rows, lambda i: f"{rows[i][0]!r} is in {rows[i][1]} twice; {_AGAIN}")
    return {split: {name: None for name, owner in rows if owner == split} for split in SPLITS}


def _check_same_images(
    path: str | Path, saved: Iterable[str], table: LabelTable, source: str
) -> None:
    saved = list(saved)
    new = sorted(set(table.filenames) - set(saved))
    gone = sorted(set(saved) - set(table.filenames))
    parts = [f"{len(new)} images of {source} are not in it: {quoted(new)}"] if new else []
    parts += [f"{len(gone)} of its images are not in {source}: {quoted(gone)}"] if gone else []
    if parts:
        raise ValueError(
            f"{path}: {'; '.join(parts)}; restore the CSV, or start in another workdir"
        )


def _check_column(path: str | Path, table: LabelTable, names: np.ndarray) -> None:
    """The saved split against the CSV's column, which may have been edited since."""
    column = np.array(table.splits)
    # Rows of train may have become val or test where the column names none of these.
    drawn = (column == "train") & ~np.isin(names, column)
    differ = np.flatnonzero((column != names) & ~drawn)
    if len(differ):
        i = differ[0]
        raise ValueError(
            f"{path}: {len(differ)} images have another split in the CSV's column, the first "
            f"{table.filenames[i]!r} ({column[i]}, was {names[i]}); restore the column, or start "
            "in another workdir"
        )
