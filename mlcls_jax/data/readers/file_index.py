"""Finds the image that a label file means, where its name isn't written as on the disk."""

import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote

from mlcls_jax.data.images.extensions import EXTENSIONS

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://")
_DRIVE = re.compile(r"[A-Za-z]:")
_NUMBER = re.compile(r"0*(\d+?)(?:\.0+)?(\.[A-Za-z]\w*)?")  # 7, 0007.jpg, and a float such as 7.0
# Ways that leave something out, so that two names can mean one image by mistake.
LOSSY = frozenset(
    {
        "paths of another folder",
        "addresses",
        "written with another extension",
        "written with other leading zeros",
    }
)


def is_address(name: str) -> bool:
    """Returns whether a name starts like https:// or gs://."""
    return bool(_ADDRESS.match(name))


def is_absolute(name: str) -> bool:
    """Returns whether a name with forward slashes is an address or an absolute path."""
    return is_address(name) or name.startswith("/") or bool(_DRIVE.match(name))


def name_key(name: str) -> str:
    """Returns a name without spaces around it, in one case and one form of Unicode."""
    return unicodedata.normalize("NFC", name.strip()).casefold()


class FileIndex:
    """The files of a folder by the ways in which a name can be written."""

    def __init__(self, files: Collection[str], folder: str | Path):
        """Indexes files.

        Args:
          files: paths relative to the folder, with forward slashes.
          folder: the folder.
        """
        self.files = set(files)
        self.tail = os.path.abspath(folder).replace(os.sep, "/").split("/")
        self.by_name, self.by_stem = defaultdict(list), defaultdict(list)
        self.by_number = defaultdict(list)
        for name in sorted(self.files):
            base = name.rpartition("/")[2]
            self.by_name[name_key(base)].append(name)
            stem, extension = posixpath.splitext(base)
            if extension.lower() in EXTENSIONS:
                self.by_stem[name_key(stem)].append(name)
                if number := _NUMBER.fullmatch(base):
                    self.by_number[number[1]].append(name)

    def find(self, name: str) -> tuple[str, list[str]]:
        """Returns how a name is written, in words, and the files that it can mean then.

        Args:
          name: with forward slashes; relative to the folder, an absolute path or an address.
        """
        if is_absolute(name):
            return self._elsewhere(name)
        if shorter := self._without_folder(name):
            return "written with the name of the folder", [shorter]
        for how, index, cut in (
            ("written in another way", self.by_name, False),
            ("without an extension", self.by_stem, True),
        ):
            same, deeper = _matches(name, index[name_key(name.rpartition("/")[2])], cut)
            if same:
                return how, same
            if deeper:
                return f"{how} and in subfolders" if cut else "in subfolders", deeper
        if "%" in name and (decoded := unquote(name)) != name:
            candidates = [decoded] if decoded in self.files else self.find(decoded)[1]
            return "percent-encoded", candidates
        return self._lossy(name)

    def _without_folder(self, name: str) -> str:
        parts = name.split("/")
        for count in range(min(len(parts) - 1, len(self.tail)), 0, -1):
            rest = "/".join(parts[count:])
            if parts[:count] == self.tail[-count:] and rest in self.files:
                return rest
        return ""

    def _elsewhere(self, name: str) -> tuple[str, list[str]]:
        """The files with the longest end of an absolute path or of an address."""
        how = "paths of another folder"
        if is_address(name):
            how, name = "addresses", unquote(re.split("[?#]", name)[0])
        parts = name_key(name).split("/")
        candidates = self.by_name[parts[-1]]
        for start in range(1, len(parts)):
            end = "/" + "/".join(parts[start:])
            if same := [file for file in candidates if f"/{name_key(file)}".endswith(end)]:
                return how, same
        return how, []

    def _lossy(self, name: str) -> tuple[str, list[str]]:
        """The files of the same stem, or else of the same number."""
        folder, _, base = name.rpartition("/")
        stem, extension = posixpath.splitext(base)
        if extension.lower() in EXTENSIONS:
            same, deeper = _matches(
                posixpath.join(folder, stem), self.by_stem[name_key(stem)], True
            )
            if same or deeper:
                return "written with another extension", same or deeper
        number = _NUMBER.fullmatch(base)
        if number is None:
            return "", []
        candidates = [
            file
            for file in self.by_number[number[1]]
            if file.rpartition("/")[0] == folder
            and (not number[2] or file.lower().endswith(number[2].lower()))
        ]
        return "written with other leading zeros", candidates


def _matches(name: str, files: Collection[str], cut: bool) -> tuple[list[str], list[str]]:
    """The files that a name means, and those in subfolders; `cut` leaves their extensions out."""
    key = name_key(name)
    paths = [(file, name_key(posixpath.splitext(file)[0] if cut else file)) for file in files]
    same = [file for file, path in paths if path == key]
    return same, [file for file, path in paths if path.endswith(f"/{key}")]
