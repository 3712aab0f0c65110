"""File names in label files, as the images are called on the disk."""

import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from mlcls_jax.data.images.extensions import EXTENSIONS
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_cells import Column, quoted
from mlcls_jax.data.readers.listing import is_hidden, names_below, names_in
from mlcls_jax.system.remote import is_remote


def check_folder(images: str | Path) -> None:
    """Raises a ValueError if the image folder does not exist; one in a bucket is listed later."""
    if not is_remote(images) and not Path(images).is_dir():
        raise ValueError(f"{images}: no such image folder; check data.images")


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
      Normalised names with forward slashes.

    Raises:
      ValueError: a name is empty, or outside the folder.
    """
    folders = _spellings(folder)
    inside, names = 0, []
    for i, text in enumerate(column.texts):
        name = text.strip() if is_remote(text) else posixpath.normpath(text.replace("\\", "/"))
        if not text.strip():
            raise column.error(i, "the file name is empty; name an image or remove the row")
        if is_remote(name) or name.startswith("/") or re.match(r"[A-Za-z]:", name):
            relative = _below(name, folders) or _suffix(name, sources)
            if not relative:
                raise column.error(
                    i, f"{text!r} is an absolute path; write it relative to the image folder"
                )
            inside += 1
            name = relative
        if name == ".." or name.startswith("../"):
            raise column.error(
                i, f"{text!r} is outside the image folder; set data.images to a parent folder"
            )
        names.append(name)
    notes = (f"{inside} absolute paths are in data.images",) if inside else ()
    return names, notes


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
    without the extension of an image, in a subfolder of the image folder, and after its name.

    Args:
      column: the file names as written, for error messages.
      names: n file names relative to the folder.
      folder: the image folder.
      sources: the images of a packed data set; None: those in the folder.

    Returns:
      The n names; the indices of those that are not there; and how names were found.

    Raises:
      ValueError: a name fits two files; names both.
    """
    missing = _missing(names, folder, sources)
    if not missing:
        return list(names), [], ()
    files = names_below(str(folder)) if sources is None else sources
    index = _Index(files, folder)
    found = list(names)
    examples: dict[str, list[int]] = defaultdict(list)
    absent = []
    for i in missing:
        how, candidates = index.find(names[i])
        if sources is None and not is_remote(folder):  # links may lead nowhere
            candidates = [name for name in candidates if os.path.isfile(os.path.join(folder, name))]
        if len(candidates) > 1:
            raise column.error(
                i,
                f"{names[i]!r} may be {' or '.join(map(repr, sorted(candidates)[:2]))} in "
                f"{folder}; write which of them",
            )
        if not candidates:
            absent.append(i)
            continue
        found[i] = candidates[0]
        examples[how].append(i)
    notes = tuple(
        f"{len(rows)} file names are {how}, such as {names[rows[0]]!r} for {found[rows[0]]!r}"
        for how, rows in examples.items()
    )
    return found, absent, notes


class _Index:
    """The files of a folder by the ways in which a name can be written."""

    def __init__(self, files: Collection[str], folder: str | Path):
        self.files = {name for name in files if not is_hidden(name)}
        self.tail = os.path.abspath(folder).replace(os.sep, "/").split("/")
        self.by_name, self.by_stem = defaultdict(list), defaultdict(list)
        for name in sorted(self.files):
            self.by_name[_key(name.rpartition("/")[2])].append(name)
            stem, extension = posixpath.splitext(name)
            if extension.lower() in EXTENSIONS:
                self.by_stem[_key(stem.rpartition("/")[2])].append(name)

    def find(self, name: str) -> tuple[str, list[str]]:
        """How a name was found, and the files that it can mean in this way."""
        if shorter := self._without_folder(name):
            return "written with the name of the folder", [shorter]
        base, key = _key(name.rpartition("/")[2]), _key(name)
        for how, index, cut in (
            ("written in another way", self.by_name, False),
            ("without an extension", self.by_stem, True),
        ):
            paths = [
                (file, _key(posixpath.splitext(file)[0] if cut else file)) for file in index[base]
            ]
            if same := [file for file, path in paths if path == key]:
                return how, same
            if deeper := [file for file, path in paths if path.endswith(f"/{key}")]:
                return f"{how} and in subfolders" if cut else "in subfolders", deeper
        return "", []

    def _without_folder(self, name: str) -> str:
        parts = name.split("/")
        for count in range(min(len(parts) - 1, len(self.tail)), 0, -1):
            rest = "/".join(parts[count:])
            if parts[:count] == self.tail[-count:] and rest in self.files:
                return rest
        return ""


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()


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
    stem = _key(os.path.splitext(searched)[0])
    return _key(name) == _key(searched) or _key(os.path.splitext(name)[0]) in (
        _key(searched),
        stem,
    )
