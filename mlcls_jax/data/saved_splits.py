"""The splits of a run as its file splits.csv, from which it continues."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_cells import read_csv
from mlcls_jax.data.readers.csv_writing import csv_text
from mlcls_jax.data.split_tables import SPLITS, assembled, separate_tables
from mlcls_jax.system.console import quoted
from mlcls_jax.system.files import write_text

_RESTORE = "restore the file, or choose another --workdir"


def write_splits(path: str | Path, splits: Mapping[str, LabelTable]) -> None:
    """Writes a CSV with the columns `filename` and `split`.

    Args:
      path: the file to write.
      splits: the table of each split.
    """
    rows = [(name, split) for split, table in splits.items() for name in table.filenames]
    frame = pd.DataFrame(rows, columns=["filename", "split"], dtype=str)
    write_text(Path(path), csv_text(frame))


def read_splits(
    path: str | Path,
    train: LabelTable,
    val: LabelTable | None = None,
    test: LabelTable | None = None,
    whole: bool = False,
) -> dict[str, LabelTable]:
    """Applies a `splits.csv` to the tables that it was made from.

    A split with a separate table has exactly the rows of that table; the other splits divide
    `train`. Therefore a file name may occur in two image folders.

    Args:
      path: the `splits.csv`.
      train, val, test: as in `make_splits`.
      whole: whether there is no val, because train has the images of all folds.

    Returns:
      What `load_splits` returned when the file was written.

    Raises:
      ValueError: the file cannot be read, or its rows do not match the tables. Then the labels have
        changed, and scores on other images would not be comparable.
    """
    given = separate_tables(train, val, test)
    saved = _saved_names(path)
    drawn: dict[str, str] = {}
    for split in SPLITS:
        if split not in given:
            twice = [name for name in saved[split] if name in drawn]
            if twice:
                raise ValueError(
                    f"{path}: {quoted(twice)} in both {drawn[twice[0]]} and {split}; {_RESTORE}"
                )
            drawn |= dict.fromkeys(saved[split], split)
    for split, table in given.items():
        _check_same_images(path, saved[split], table, f"the CSV of {split}")
    _check_same_images(path, drawn, train, "the label CSV")
    names = np.array([drawn[name] for name in train.filenames])
    if train.splits is not None and not given:
        _check_column(path, train, names)
    splits = assembled(train, names, given)
    needed = ("train",) if whole else ("train", "val")
    if missing := [name for name in needed if name not in splits]:
        raise ValueError(f"{path}: no row has the split {missing[0]}; {_RESTORE}")
    return splits


def _saved_names(path: str | Path) -> dict[str, dict[str, None]]:
    """The file names of each split, in the order of the file."""
    if not Path(path).exists():
        raise ValueError(f"{path}, the list of images by split, is missing; {_RESTORE}")
    saved = read_csv(path)
    names, splits = saved.column("filename", _RESTORE), saved.column("split", _RESTORE)
    rows = list(zip(names.texts, splits.texts, strict=True))
    for i, (_, split) in enumerate(rows):
        if split not in SPLITS:
            raise splits.error(i, f"{split!r} is not a split; write train, val or test")
    names.check_unique(rows, lambda i: f"{rows[i][0]!r} is in {rows[i][1]} twice; {_RESTORE}")
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
            f"{path}: {'; '.join(parts)}; restore the CSV, or choose another --workdir"
        )


def _check_column(path: str | Path, table: LabelTable, names: np.ndarray) -> None:
    """Refuses saved splits that differ from the CSV's column, which may have been edited."""
    column = np.array(table.splits)
    # Rows of train may have been drawn for val or test if the column does not name these.
    drawn = (column == "train") & ~np.isin(names, column)
    differ = np.flatnonzero((column != names) & ~drawn)
    if len(differ):
        i = differ[0]
        raise ValueError(
            f"{path}: {len(differ)} images have another split in the CSV's column, the first "
            f"{table.filenames[i]!r} ({column[i]}, was {names[i]}); restore the column, or choose "
            "another --workdir"
        )
