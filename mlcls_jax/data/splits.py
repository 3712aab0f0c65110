"""Which picture is for training, validation or test: from a column, from files, or drawn.

A drawn split depends on the file names, the labels and the seed, and on nothing else: not on the
order of rows or columns, the process, or the machine. It is written to `splits.csv` and reused.
"""

import os
from collections.abc import Iterable, Mapping
from csv import QUOTE_ALL, QUOTE_MINIMAL
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

from mlcls_jax.data.csv_cells import quoted, read_csv
from mlcls_jax.data.labels import SPLIT_COLUMN, LabelTable, read_labels

SPLITS = ("train", "val", "test")


def load_splits(
    *,
    csv: str | Path,
    images: str | Path,
    val_csv: str | Path = "",
    val_images: str | Path = "",
    test_csv: str | Path = "",
    test_images: str | Path = "",
    categories: str | Path = "",
    filename_column: str = "filename",
    split_column: str = SPLIT_COLUMN,
    val_fraction: float = 0.25,
    test_fraction: float = 0.0,
    seed: int = 42,
    saved: str | Path | None = None,
) -> dict[str, LabelTable]:
    """Reads the label CSVs and splits them, or splits them again as a run did before.

    Args:
      csv, images: labels and pictures; see `read_labels`.
      val_csv, val_images, test_csv, test_images: separate files, "" for none; their folders
        default to `images`. Classes may be in another order than in `csv`, which decides.
      categories, filename_column, split_column: see `read_labels`; they hold for each CSV.
      val_fraction, test_fraction, seed: see `make_splits`.
      saved: a `splits.csv` to apply where it exists; nothing is drawn then. Never written here.

    Returns:
      "train", "val" and perhaps "test"; all with the same classes in the same order.

    Raises:
      ValueError: one line, see `read_labels`, `splits_from_files` and `read_splits`.
    """

    def read(labels: str | Path, folder: str | Path) -> LabelTable:
        return read_labels(
            labels,
            folder,
            categories=categories or None,
            filename_column=filename_column,
            split_column=split_column,
        )

    train = read(csv, images)
    val = read(val_csv, val_images or images) if val_csv else None
    test = read(test_csv, test_images or images) if test_csv else None
    if saved is not None and Path(saved).exists():
        return read_splits(saved, train, val, test)
    return splits_from_files(
        train, val, test, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed
    )


def make_splits(
    table: LabelTable, *, val_fraction: float = 0.25, test_fraction: float = 0.0, seed: int = 42
) -> dict[str, LabelTable]:
    """Splits one table by its split column, or else by a seeded, multi-label stratified draw.

    Where the column names no val rows, val is drawn from its train rows, and so is test if
    `test_fraction` is above 0. The column's own val and test rows are never touched.

    Args:
      val_fraction: share for val of the rows that are drawn from, in (0, 1).
      test_fraction: share for test of the same rows, in [0, 1); 0 makes no test split.
      seed: of the draw, 0 to 2**32 - 1.

    Returns:
      "train", "val" and perhaps "test", the rows of each in the order of the table.

    Raises:
      ValueError: impossible fractions, too few rows, or a column without train rows.
    """
    names = np.array(table.splits if table.splits is not None else ["train"] * len(table))
    pool = np.flatnonzero(names == "train")
    if not len(pool):
        raise ValueError("the split column has no train rows; write train in some of them")
    wanted = {}
    if "test" not in names and test_fraction != 0:
        wanted["test"] = test_fraction
    if "val" not in names:
        wanted["val"] = val_fraction
    names[pool] = _draw(table.take(pool), wanted, seed)
    return _grouped(table, names)


def splits_from_files(
    train: LabelTable,
    val: LabelTable | None = None,
    test: LabelTable | None = None,
    *,
    val_fraction: float = 0.25,
    test_fraction: float = 0.0,
    seed: int = 42,
) -> dict[str, LabelTable]:
    """Splits that come as tables of their own; what isn't given is drawn from `train`.

    Args and Returns: as `make_splits`, which does all the work when `val` and `test` are None.

    Raises:
      ValueError: differing classes, the same picture in two splits, a split column that says
        something else than the file, or what `make_splits` raises.
    """
    given = _given(train, val, test)
    if not given:
        return make_splits(train, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    wanted = {"val": val_fraction} if val is None else {}
    if test is None and test_fraction != 0:
        wanted = {"test": test_fraction, **wanted}
    splits = _grouped(train, _draw(train, wanted, seed)) | given
    splits = {name: splits[name] for name in SPLITS if name in splits}
    _check_disjoint(splits)
    return splits


def write_splits(path: str | Path, splits: Mapping[str, LabelTable]) -> None:
    """Writes columns `filename` and `split`; whoever reads meanwhile sees all of it or nothing."""
    rows = [(name, split) for split, table in splits.items() for name in table.filenames]
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    frame = pd.DataFrame(rows, columns=["filename", "split"], dtype=str)
    # The csv module doesn't see that a carriage return in a name needs quotes.
    quoting = QUOTE_ALL if any("\r" in name for name, _ in rows) else QUOTE_MINIMAL
    frame.to_csv(partial, index=False, encoding="utf-8", lineterminator="\n", quoting=quoting)
    os.replace(partial, path)


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
      As `make_splits` or `splits_from_files` returned when the file was written.

    Raises:
      ValueError: an unreadable file, or rows that don't match the tables: the labels have changed
        since, and scores on other pictures would not compare.
    """
    given = _given(train, val, test)
    saved = _saved_names(path)
    drawn: dict[str, str] = {}
    for split in SPLITS:
        if split not in given:
            twice = [name for name in saved[split] if name in drawn]
            if twice:
                raise ValueError(
                    f"{path}: {quoted(twice)} in both {drawn[twice[0]]} and {split}; "
                    "remove the file to split anew"
                )
            drawn |= dict.fromkeys(saved[split], split)
    for split, table in given.items():
        _check_same_pictures(path, saved[split], table, f"the CSV of {split}")
    _check_same_pictures(path, drawn, train, "the label CSV")
    names = np.array([drawn[name] for name in train.filenames])
    if train.splits is not None and not given:
        _check_column(path, train, names)
    splits = _grouped(train, names) | given
    if missing := [name for name in ("train", "val") if name not in splits]:
        raise ValueError(f"{path}: no row is {missing[0]}; remove the file to split anew")
    splits = {name: splits[name] for name in SPLITS if name in splits}
    _check_disjoint(splits)
    return splits


def check_train(splits: Mapping[str, LabelTable]) -> list[str]:
    """Warnings: for each split, one sentence naming the classes without any positive label."""
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
                f"({len(table)} pictures), {consequences[split]}: {quoted(empty, len(empty))}."
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


def _grouped(table: LabelTable, names: np.ndarray) -> dict[str, LabelTable]:
    """names: str [n], each row's split."""
    return {split: table.take(np.flatnonzero(names == split)) for split in SPLITS if split in names}


def _draw(table: LabelTable, wanted: Mapping[str, float], seed: int) -> np.ndarray:
    """str [n]: "train", or the split that the row is drawn into. wanted: split -> share."""
    names = np.full(len(table), "train", dtype="<U5")
    if not wanted:
        return names
    counts = _counts(len(table), wanted)
    if not 0 <= seed < 2**32:
        raise ValueError(f"data.split_seed: {seed} is not in 0 to 2**32 - 1; choose another seed")
    # The draw sees pictures and classes by name, never in the order that they were written in.
    rest = np.array(sorted(range(len(table)), key=table.filenames.__getitem__))
    columns = sorted(range(len(table.classes)), key=table.classes.__getitem__)
    positive = table.labels[:, columns] == 1
    needed = 1 + sum(counts.values())
    for split, count in counts.items():
        needed -= count
        chosen = _stratified(positive[rest], count, needed, seed)
        names[rest[chosen]] = split
        rest = rest[~chosen]
    return names


def _counts(n: int, wanted: Mapping[str, float]) -> dict[str, int]:
    for split, share in wanted.items():
        if not 0 < share < 1:
            raise ValueError(f"data.{split}_fraction: {share} is not between 0 and 1; try 0.25")
    fields = " and ".join(f"data.{split}_fraction" for split in wanted)
    if sum(wanted.values()) >= 1:
        raise ValueError(
            f"{fields}: {' + '.join(map(str, wanted.values()))} leaves nothing to train on; "
            "lower them"
        )
    counts = {split: max(1, round(n * share)) for split, share in wanted.items()}
    if sum(counts.values()) >= n:
        raise ValueError(
            f"{fields}: {n} rows are too few to split off {', '.join(map(str, counts.values()))}; "
            "add pictures or lower the fraction"
        )
    return counts


def _stratified(positive: np.ndarray, count: int, needed: int, seed: int) -> np.ndarray:
    """bool [n]: about `count` rows with their share of each class; at least `needed` are left.

    positive: bool [n, c].
    """
    n = len(positive)
    # scikit-learn takes a single column for something else than multi-label: add an empty one.
    positive = np.pad(positive, ((0, 0), (0, 1)))
    # Any: the package is untyped, and its default for test_size has a type that it refuses.
    sizes: dict[str, Any] = {"test_size": count, "train_size": n - count}
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, random_state=seed, **sizes)
    rest, part = next(splitter.split(np.zeros(n), positive))
    if len(rest) < needed or not len(part):
        # Of very few pictures, stratifying gives one side too many: one picture per class, say,
        # all go to the larger one.
        part = np.random.RandomState(seed).permutation(n)[:count]
    chosen = np.zeros(n, dtype=bool)
    chosen[part] = True
    return chosen


def _check_disjoint(splits: Mapping[str, LabelTable]) -> None:
    owner: dict[str, str] = {}
    for split, table in splits.items():
        folder = str(table.folder.resolve())
        keys = [os.path.join(folder, name) for name in table.filenames]
        twice = [
            (owner[key], name)
            for key, name in zip(keys, table.filenames, strict=True)
            if key in owner
        ]
        if twice:
            raise ValueError(
                f"{len(twice)} pictures are in both {twice[0][0]} and {split}: "
                f"{quoted(name for _, name in twice)}; remove them from one of the CSVs"
            )
        owner |= dict.fromkeys(keys, split)


def _saved_names(path: str | Path) -> dict[str, dict[str, None]]:
    """The file names of each split, in the file's order."""
    saved, advice = read_csv(path), "remove the file to split anew"
    names, splits = saved.column("filename", advice), saved.column("split", advice)
    rows = list(zip(names.texts, splits.texts, strict=True))
    for i, (_, split) in enumerate(rows):
        if split not in SPLITS:
            raise splits.error(i, f"{split!r} is no split; write train, val or test")
    names.check_unique(rows, lambda i: f"{rows[i][0]!r} is in {rows[i][1]} twice; {advice}")
    return {split: {name: None for name, owner in rows if owner == split} for split in SPLITS}


def _check_same_pictures(
    path: str | Path, saved: Iterable[str], table: LabelTable, source: str
) -> None:
    saved = list(saved)
    new = sorted(set(table.filenames) - set(saved))
    gone = sorted(set(saved) - set(table.filenames))
    parts = [f"{len(new)} pictures of {source} are not in it: {quoted(new)}"] if new else []
    parts += [f"{len(gone)} of its pictures are not in {source}: {quoted(gone)}"] if gone else []
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
            f"{path}: {len(differ)} pictures have another split in the CSV's column, the first "
            f"{table.filenames[i]!r} ({column[i]}, was {names[i]}); restore the column, or start "
            "in another workdir"
        )
