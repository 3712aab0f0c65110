"""Reads labels from folders that are called like the classes, such as images/cat/1.jpg.

Files with the same bytes are one image, whatever they are called. In two class folders, it has two
labels. Files that only have the same name are two images.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_values import SPLIT_NAMES
from mlcls_jax.data.readers.listing import names_below, names_in, sizes_of
from mlcls_jax.data.readers.storage import read_whole
from mlcls_jax.data.readers.unlabelled import is_image
from mlcls_jax.system.console import quoted
from mlcls_jax.system.remote import is_remote


def holds_class_folders(place: str) -> bool:
    """Returns whether a local folder has no packed data set, but images in folders."""
    if is_remote(place) or not os.path.isdir(folder := os.path.expanduser(place)):
        return False
    if {"pack.json", "labels.csv"} & names_in(folder) or os.path.isdir(f"{folder}/Annotations"):
        return False
    return any("/" in name and is_image(name) for name in names_below(folder))


def read_class_folders(
    place: str, classes: Sequence[str] | None = None, *, is_certain: bool = True
) -> LabelTable:
    """Reads images whose folders are called like their classes.

    Folders train, val and test that contain class folders are the splits. Images deeper in a class
    folder belong to it. Hidden files are left out.

    Args:
      place: a folder or an address.
      classes: all class names, in order; None: the folders found, sorted.
      is_certain: whether the upper folders are classes even if they look like parts of a data set.

    Returns:
      A LabelTable in which every class is present or absent.

    Raises:
      ValueError: there are no class folders, images are in none, a folder is not one of `classes`,
        or, without `classes`, the folders are no classes.
    """
    folder = place.rstrip("/") if is_remote(place) else str(Path(place).expanduser())
    names = sorted(name for name in names_below(folder) if is_image(name))
    has_splits, unused = _splits_of(names)
    if not has_splits and names and all(_top(name).lower() in SPLIT_NAMES for name in names):
        raise ValueError(
            f"{place}: {_top(names[0])}/ holds images, but no class folders; move them into the "
            "folder of their class, such as train/cat, or name a label CSV"
        )
    parts = [name.split("/") for name in names]
    depth = int(has_splits)
    loose = [name for name, part in zip(names, parts, strict=True) if len(part) < 2 + depth]
    loose = [name for name in loose if _top(name) not in unused]
    if loose:
        raise ValueError(
            f"{place}: {len(loose)} images are in no class folder: {quoted(loose)}; move them into "
            "the folder of their class, or remove them"
        )
    parts = [part for part in parts if part[0] not in unused]
    if not parts:
        raise ValueError(f"{place}: contains no class folders with images, such as cat/1.jpg")
    found = sorted({part[depth] for part in parts})
    if foreign := [name for name in found if classes is not None and name not in classes]:
        raise ValueError(
            f"{place}: the folder {foreign[0]!r} is not one of the classes {quoted(classes or ())};"
            " rename or remove it"
        )
    if classes is None:
        _check_classes(place, found, parts, has_splits, is_certain)
    classes = found if classes is None else classes
    names = ["/".join(part) for part in parts]
    splits = [SPLIT_NAMES[part[0].lower()] if has_splits else "" for part in parts]
    owner = _owners(folder, names, splits)
    column = {name: i for i, name in enumerate(classes)}
    labels = np.zeros((len(names), len(classes)), np.int8)
    labels[owner, [column[part[depth]] for part in parts]] = 1
    kept = np.unique(owner)
    notes = [f"its folders are the classes {quoted(found)}, and all others are absent"]
    if has_splits:
        pairs = dict.fromkeys((part[0], split) for part, split in zip(parts, splits, strict=True))
        notes.append(f"{', '.join(f'{a}/ is {b}' for a, b in pairs)}")
    if unused:
        notes.append(f"images in no class folder are not used: {quoted(sorted(unused))}")
    if len(kept) < len(names):
        several = (labels.sum(axis=1) > 1).sum()
        notes.append(
            f"{len(names)} files are {len(kept)} images, because the same bytes are one image with "
            f"the labels of all its folders ({several} have several)"
        )
    return LabelTable(
        folder,
        tuple(names[i] for i in kept),
        labels[kept],
        tuple(classes),
        tuple(splits[i] for i in kept) if has_splits else None,
        notes=(f"{place}: {'; '.join(notes)}",),
    )


def _check_classes(
    place: str, found: list[str], parts: list[list[str]], has_splits: bool, is_certain: bool
) -> None:
    """Refuses folders that are no classes: a single one, or the parts of a data set.

    Parts, such as folds, hold no images themselves, and have folders of the same names.
    """
    deep = next((part for part in parts if len(part) > 2 + has_splits), None)
    advice = f", such as {place.rstrip('/')}/{'/'.join(deep[:-2])}" if deep else ""
    if len(found) == 1:
        raise ValueError(
            f"{place}: all images are in the folder {found[0]!r}, so there is only one class, and "
            f"no image without it; name the folder whose folders are the classes{advice}, or add a "
            "folder of other images"
        )
    first: dict[str, str] = {}
    for name in found:
        if (other := first.setdefault(name.casefold(), name)) != name:
            raise ValueError(
                f"{place}: the folders {other!r} and {name!r} differ only in case; merge them"
            )
    if has_splits or is_certain:
        return
    holders = {part[0] for part in parts if len(part) == 2}
    owners: dict[str, set[str]] = defaultdict(set)
    for part in parts:
        if part[0] not in holders:
            owners[part[1]].add(part[0])
    shared = sorted(name for name, tops in owners.items() if len(tops) > 1)
    tops = sorted({top for name in shared for top in owners[name]})
    if len(shared) > 1 or sum(top.lower() in SPLIT_NAMES for top in tops) > 1:
        raise ValueError(
            f"{place}: the folders {quoted(tops)} contain folders of the same names, such as "
            f"{shared[0]!r}, which may be the classes; name the folder whose folders are the "
            f"classes{advice}, or set data.source='folders' if the upper folders are the classes"
        )


def _top(name: str) -> str:
    return name.partition("/")[0]


def _splits_of(names: Iterable[str]) -> tuple[bool, set[str]]:
    """Whether the upper folders are splits, and those of them without class folders."""
    deep: dict[str, bool] = defaultdict(bool)
    for name in names:
        top, _, rest = name.partition("/")
        deep[top if rest else ""] |= "/" in rest
    splits = all(top.lower() in SPLIT_NAMES for top in deep) and any(
        is_deep and SPLIT_NAMES[top.lower()] == "train" for top, is_deep in deep.items()
    )
    flat = [top for top, is_deep in deep.items() if not is_deep]
    return splits, {top for top in flat if splits and SPLIT_NAMES[top.lower()] == "test"}


def _owners(folder: str, names: Sequence[str], splits: Sequence[str]) -> np.ndarray:
    """The index of the first file with the same bytes in the same split: int [n].

    Only files of one size are read.
    """
    sizes = sizes_of(folder, names)
    same: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i, (split, size) in enumerate(zip(splits, sizes, strict=True)):
        same[split, size].append(i)
    owner = np.arange(len(names))
    for rows in same.values():
        first: dict[bytes, int] = {}
        for i in rows if len(rows) > 1 else ():
            contents = read_whole(f"{folder}/{names[i]}")
            owner[i] = first.setdefault(hashlib.sha256(contents).digest(), i)
    return owner
