"""Fingerprints of the data of a run, by which a later start notices that they have changed.

fingerprints.npz in the workdir has, for each split, digests of the file names and the labels, the
number of positive images per class, size and time of each image file, and digests of a few whole
files.  A change of labels or splits is refused unless it is accepted.  Changed images are named in
a warning, because the sampled contents and the times of files prove less.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dacite
import numpy as np

from mlcls_jax.data.file_stamps import file_stamps, sampled_contents
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.run.workdir import FINGERPRINTS
from mlcls_jax.system.console import console, print_warning, quoted
from mlcls_jax.system.files import write_bytes

SECONDS = 2.0  # for the stamps of a split, and for its contents; what is left is not compared
OPTION = "--accept-changed-data"
ADVICE = f"with {OPTION} (in Python, accept_changed_data=True)"
_VERSION = 1


@dataclass(frozen=True)
class LabelDigests:
    """What is kept of the labels of a split.

    Attributes:
        names, labels: digests of file names and labels, in the order of the split.
        positives: number of positive images of each class.
        sampled: digests of some whole files, by row.
    """

    names: str
    labels: str
    positives: list[int]
    sampled: dict[str, str]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The fingerprint of a split.

    Attributes:
        digests: of names, labels and sampled files.
        stamps: int64 [n, 2], see `file_stamps`; -1 if they are unknown.
    """

    digests: LabelDigests
    stamps: np.ndarray


Fingerprints = Mapping[str, Fingerprint]  # by split


def digest_of_names(names: Iterable[str]) -> str:
    """Returns a digest of names in their order."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def digest_of_labels(labels: np.ndarray) -> str:
    """Returns a digest of labels, [image, class]."""
    return hashlib.sha256(labels.tobytes()).hexdigest()[:12]


def take_fingerprints(splits: Mapping[str, LabelTable], threads: int = 0) -> Fingerprints:
    """Returns the fingerprints of some splits.

    Args:
        splits: the table of each split.
        threads: that look at the image files; 0 leaves the files out.
    """
    return {split: _fingerprint(table, threads) for split, table in splits.items()}


def _fingerprint(table: LabelTable, threads: int) -> Fingerprint:
    stamps, sampled = np.full((len(table), 2), -1, np.int64), {}
    if threads:
        stamps = file_stamps(table.paths, threads, SECONDS)
        sampled = sampled_contents(table.paths, threads, SECONDS)
    digests = LabelDigests(
        names=digest_of_names(table.filenames),
        labels=digest_of_labels(table.train_labels),
        positives=table.positives.tolist(),
        sampled={str(row): digest for row, digest in sampled.items()},
    )
    return Fingerprint(digests, stamps)


def write_fingerprints(workdir: Path, fingerprints: Fingerprints) -> None:
    """Writes fingerprints.npz.

    Raises:
        ValueError: the file cannot be written.
    """
    about = {split: vars(one.digests) for split, one in fingerprints.items()}
    text = json.dumps({"version": _VERSION, "splits": about}).encode()
    arrays: dict[str, Any] = {split: one.stamps for split, one in fingerprints.items()}
    file = io.BytesIO()
    np.savez(file, about=np.frombuffer(text, np.uint8), **arrays)
    write_bytes(workdir / FINGERPRINTS, file.getvalue())


def read_fingerprints(workdir: Path) -> Fingerprints | None:
    """Returns the fingerprints of a run; None if it has none, or those of another version.

    Raises:
        ValueError: the file cannot be read.
    """
    path = workdir / FINGERPRINTS
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if about["version"] != _VERSION:
                return None
            return {
                split: _checked(dacite.from_dict(LabelDigests, digests), arrays[split])
                for split, digests in about["splits"].items()
            }
    except (
        *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
        *(zipfile.BadZipFile, dacite.DaciteError),
    ) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); restore it, or remove it: then changes of the data "
            "up to now are not noticed"
        ) from error


def _checked(digests: LabelDigests, stamps: np.ndarray) -> Fingerprint:
    if stamps.ndim != 2 or stamps.shape[1] != 2 or stamps.dtype != np.int64:
        raise ValueError("its stamps are not pairs of integers")
    if not all(0 <= int(row) < len(stamps) for row in digests.sampled):
        raise ValueError("it has the contents of an image that it does not have")
    return Fingerprint(digests, stamps)


def check_data_kept(
    workdir: Path, now: Fingerprints, tables: Mapping[str, LabelTable], accepted: bool
) -> bool:
    """Checks that the data of a run are those that it began with, and says what has changed.

    Args:
        workdir: of the run.
        now: the fingerprints of its splits, or of some of them.
        tables: the same splits.
        accepted: whether changes of labels and splits are only warnings.

    Returns:
        Whether the fingerprints differ from those of the workdir, or it has none.

    Raises:
        ValueError: labels or splits have changed.
    """
    before = read_fingerprints(workdir)
    if before is None:
        return True
    changed = [text for split in now for text in _changes(split, before.get(split), now, tables)]
    if changed and not accepted:
        raise ValueError(
            f"{workdir}: its data have changed since it began: {'; '.join(changed)}; restore "
            f"them, choose another --workdir, or go on {ADVICE}"
        )
    replaced = [text for split in now for text in _replaced(split, before.get(split), now, tables)]
    for text in (*changed, *replaced):
        print_warning(f"{workdir}: {text} since the run began")
    return not _equal(before, now)


def check_split_kept(
    workdir: Path, split: str, table: LabelTable, threads: int, accepted: bool
) -> None:
    """Checks that a split of a run is that which the run began with; see `check_data_kept`."""
    tables = {split: table}
    check_data_kept(workdir, take_fingerprints(tables, threads), tables, accepted)


def say_unknown(workdir: Path) -> None:
    """Prints that a run has no fingerprints, because it was begun by an earlier version."""
    if not (workdir / FINGERPRINTS).exists():
        console.print(
            f"{workdir} has no {FINGERPRINTS}: changes of its data are noticed from now on."
        )


def _changes(
    split: str, before: Fingerprint | None, now: Fingerprints, tables: Mapping[str, LabelTable]
) -> list[str]:
    """Returns what has changed in the labels or the images of a split."""
    if before is None:
        return [f"the split {split} is new"]
    old, new, table = before.digests, now[split].digests, tables[split]
    if old.names != new.names:
        count, counted = len(before.stamps), len(table)
        if count == counted:
            return [f"{split} has other images, or another order of them"]
        return [f"{split} has {counted} images, and had {count}"]
    if old.labels == new.labels:
        return []
    if len(old.positives) != len(table.classes):
        return [f"{split} has other classes"]
    moved = np.array(new.positives) - np.array(old.positives)
    if not moved.any():
        return [f"the labels of {split} have changed, with as many positive images of each class"]
    most = int(np.abs(moved).argmax())
    return [
        f"the labels of {split} have changed ({quoted([table.classes[most]])} has "
        f"{new.positives[most]} positive images, and had {old.positives[most]})"
    ]


def _replaced(
    split: str, before: Fingerprint | None, now: Fingerprints, tables: Mapping[str, LabelTable]
) -> list[str]:
    """Returns which image files of a split have changed, as far as it is known."""
    if before is None or before.digests.names != now[split].digests.names:
        return []
    names, old, new = tables[split].filenames, before.stamps, now[split].stamps
    if len(old) != len(new):
        return []
    known = (old[:, 0] >= 0) & (new[:, 0] >= 0)
    changed = known & (old[:, 0] != new[:, 0])
    changed[_other_contents(before, now[split])] = True
    timed = known & (old[:, 1] >= 0) & (new[:, 1] >= 0)
    later = timed & (old[:, 1] != new[:, 1])
    if (later == timed).all():  # a copy of all images
        later = np.zeros_like(later)
    return [
        f"the files of {int(rows.sum())} images of {split} {what} ({_first(names, rows)})"
        for rows, what in (
            (changed, "have changed"),
            (later & ~changed, "have the same sizes, but were written again or exchanged"),
        )
        if rows.any()
    ]


def _other_contents(before: Fingerprint, now: Fingerprint) -> list[int]:
    """Returns the rows of the sampled images whose contents have changed."""
    sampled = before.digests.sampled
    return [
        int(row)
        for row, digest in now.digests.sampled.items()
        if sampled.get(row, digest) != digest
    ]


def _first(names: tuple[str, ...], rows: np.ndarray) -> str:
    return quoted([names[row] for row in np.flatnonzero(rows)], 3)


def _equal(before: Fingerprints, now: Fingerprints) -> bool:
    """Returns whether nothing differs that both know."""
    return before.keys() == now.keys() and all(
        before[split].digests.names == one.digests.names
        and before[split].digests.labels == one.digests.labels
        and ((one.stamps == -1).all() or np.array_equal(before[split].stamps, one.stamps))
        and not _other_contents(before[split], one)
        for split, one in now.items()
    )
