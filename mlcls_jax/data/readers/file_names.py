"""File names in label files, as the images are called on the disk."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.cells import Column
from mlcls_jax.data.readers.file_index import (
    LOSSY,
    FileIndex,
    is_absolute,
    is_address,
    name_key,
)
from mlcls_jax.data.readers.listing import is_hidden, names_below, names_in
from mlcls_jax.system.console import quoted
from mlcls_jax.system.remote import is_remote


def check_folder(images: str | Path) -> None:
    """Raises a ValueError if the image folder does not exist; one in a bucket is listed later."""
    if not is_remote(images) and not Path(images).is_dir():
        wrong = "not a folder" if Path(images).exists() else "no such image folder"
        raise ValueError(f"{images}: {wrong}; check data.images")


def make_table(
    names: Column,
    labels: np.ndarray,
    classes: tuple[str, ...],
    folder: str | Path,
    *,
    splits: tuple[str, ...] | None = None,
    sources: Mapping[str, str] | None = None,
) -> LabelTable:
    """Returns a LabelTable of images that are called exactly as in their list.

    Args:
      names: n file names, with their places in the label file for error messages.
      labels, classes, folder, splits, sources: see LabelTable. Without `sources`, every image must
        exist in `folder`.

    Raises:
      ValueError: a file name is empty, absolute, outside the folder, repeated or missing. The
        message is one line with the file and the place in it.
    """
    found, _ = relative_names(names, folder)
    for i in np.flatnonzero([is_absolute(name) for name in found])[:1]:
        raise _absolute_error(names, int(i))
    names.check_unique(
        found, lambda i: f"both name the image {found[i]!r}; merge their labels into one row"
    )
    if sources is None and (missing := _missing(found, folder, None)):
        raise missing_error(names, found, missing, folder)
    return LabelTable(folder, tuple(found), labels, classes, splits, sources)


def relative_names(
    column: Column, folder: str | Path, sources: Collection[str] = ()
) -> tuple[list[str], tuple[str, ...]]:
    """Returns file names relative to the image folder, and how they were understood.

    Args:
      column: the file names as written.
      folder: the image folder.
      sources: all images of a packed data set, which was made in another folder.

    Returns:
      Normalised names with forward slashes; absolute ones are outside the folder.

    Raises:
      ValueError: a name is empty, or leaves the folder by `..`.
    """
    folders = _spellings(folder)
    inside, names = 0, []
    for i, text in enumerate(column.texts):
        name = text.strip()
        if not is_address(name):
            name = posixpath.normpath(text.replace("\\", "/"))
        if not text.strip():
            raise column.error(i, "the file name is empty; name an image or remove the row")
        if is_absolute(name) and (relative := _below(name, folders) or _suffix(name, sources)):
            inside += 1
            name = relative
        if name == ".." or name.startswith("../"):
            raise column.error(
                i, f"{text!r} is outside the image folder; set data.images to a parent folder"
            )
        names.append(name)
    notes = (f"{inside} absolute paths are in data.images",) if inside else ()
    return names, notes


def _absolute_error(column: Column, i: int) -> ValueError:
    text = column.distinct[column.codes[i]]
    if is_address(address := text.strip()):
        parent = address.rpartition("/")[0]
        bucket = "" if parent.lower().startswith("http") else f", or set data.images={parent}"
        return column.error(
            i,
            f"{text!r} is an address, and no image in the image folder is called like its end; "
            f"download the images into it{bucket}",
        )
    return column.error(i, f"{text!r} is an absolute path; write it relative to the image folder")


def _spellings(folder: str | Path) -> tuple[str, ...]:
    """The image folder as an absolute path, with links and without, and a slash at its end."""
    if is_remote(folder):
        return (f"{str(folder).rstrip('/')}/",)
    absolute = {os.path.abspath(folder), os.path.realpath(folder)}
    return tuple(f"{path.replace(os.sep, '/').rstrip('/')}/" for path in absolute)


def _below(name: str, folders: Collection[str]) -> str:
    """The path of a file below one of the folders; "" if it is in none."""
    for folder in folders:
        if name.startswith(folder) and len(name) > len(folder):
            return name[len(folder) :]
    return ""


def _suffix(name: str, sources: Collection[str]) -> str:
    """The longest end of a path that is one of the sources; "" if none is."""
    parts = name.split("/")
    ends = ("/".join(parts[i:]) for i in range(1, len(parts)))
    return next((end for end in ends if end in sources), "")


def located_names(
    column: Column, names: Sequence[str], folder: str | Path, sources: Collection[str] | None
) -> tuple[list[str], list[int], tuple[str, ...]]:
    """Returns file names as they are on the disk, where that can mean only one file.

    Names are found in another case, with accents in another form of Unicode, between spaces,
    without the extension of an image or with another one, in a subfolder of the image folder, and
    after its name; percent-encoded, and as numbers without their zeros. Of an absolute path or an
    address, the longest end counts that is a file.

    Args:
      column: the file names as written, for error messages.
      names: n file names relative to the folder.
      folder: the image folder.
      sources: the images of a packed data set; None: those in the folder.

    Returns:
      The n names; the indices of those that are not there; and how names were found.

    Raises:
      ValueError: a name fits two files, or two names would fit one; names both. An absolute path
        fits none, or is a file elsewhere.
    """
    missing = _missing(names, folder, sources)
    if not missing:
        return list(names), [], ()
    files = names_below(str(folder)) if sources is None else sources
    index = FileIndex([name for name in files if not is_hidden(name)], folder)
    found = list(names)
    examples: dict[str, list[int]] = defaultdict(list)
    absent = []
    for i in missing:
        if is_absolute(names[i]) and os.path.exists(names[i]):
            raise _absolute_error(column, i)
        how, candidates = index.find(names[i])
        if sources is None and not is_remote(folder):  # links may lead nowhere
            candidates = [name for name in candidates if os.path.isfile(os.path.join(folder, name))]
        if len(candidates) > 1:
            raise column.error(
                i,
                f"{names[i]!r} may be {' or '.join(map(repr, sorted(candidates)[:2]))} in "
                f"{folder}; write which of them",
            )
        if not candidates and is_absolute(names[i]):
            raise _absolute_error(column, i)
        if not candidates:
            absent.append(i)
            continue
        found[i] = candidates[0]
        examples[how].append(i)
    _check_lossy(column, names, found, [i for how in LOSSY & set(examples) for i in examples[how]])
    notes = tuple(
        f"{len(rows)} file names are {how}, such as {names[rows[0]]!r} for {found[rows[0]]!r}"
        for how, rows in examples.items()
    )
    return found, absent, notes


def _check_lossy(
    column: Column, names: Sequence[str], found: Sequence[str], lossy: Sequence[int]
) -> None:
    """Raises a ValueError if two different names have become one image."""
    if not lossy:
        return
    files = {found[i] for i in lossy}
    first: dict[str, int] = {}
    for i, file in enumerate(found):
        if file in files and names[first.setdefault(file, i)] != names[i]:
            raise ValueError(
                f"{column.path}: {column.where(first[file], i)}: {names[first[file]]!r} and "
                f"{names[i]!r} would both be the image {file!r}; write them as on the disk"
            )


def _missing(
    names: Sequence[str], folder: str | Path, sources: Collection[str] | None
) -> list[int]:
    """The indices of names that are no file; lists each folder once, not every file."""
    if sources is not None:
        return [i for i, name in enumerate(names) if name not in sources]
    listed: dict[str, set[str]] = {}
    missing = []
    for i, name in enumerate(names):
        parent, _, base = name.rpartition("/")
        if is_absolute(name):
            missing.append(i)
            continue
        if parent not in listed:
            listed[parent] = names_in(os.path.join(folder, parent))
        if base not in listed[parent]:
            missing.append(i)
    return missing


def missing_error(
    column: Column,
    names: Sequence[str],
    missing: Sequence[int],
    folder: str | Path,
    advice: str = "check data.images, or remove these rows",
) -> ValueError:
    """Returns an error that counts and names the missing images.

    Args:
      column: the file names as written.
      names: the n file names relative to the folder.
      missing: indices of names.
      folder: the image folder.
      advice: what to do.
    """
    gone = [names[i] for i in missing]
    parent, _, base = gone[0].rpartition("/")
    similar = sorted(name for name in names_in(os.path.join(folder, parent)) if _alike(name, base))
    hint = f" ({similar[0]!r} exists, spelled differently from {base!r})" if similar else ""
    return ValueError(
        f"{column.path}: {len(gone)} of {len(names)} images are not in {folder}, the first in "
        f"{column.where(missing[0])}: {quoted(gone)}{hint}; {advice}"
    )


def _alike(name: str, searched: str) -> bool:
    """Whether names differ only in case, the encoding of accents, or their extensions."""
    stem = name_key(os.path.splitext(searched)[0])
    return name_key(name) == name_key(searched) or name_key(os.path.splitext(name)[0]) in (
        name_key(searched),
        stem,
    )
