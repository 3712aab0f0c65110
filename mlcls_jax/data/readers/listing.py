"""Lists the files of a folder, on this machine or in a bucket."""

import os
from collections.abc import Sequence

from mlcls_jax.system.remote import asked, file_system_of, files_below, is_remote


def file_sizes(folder: str) -> dict[str, int]:
    """Returns the size in bytes of each file in a folder, by name; {} if the folder is missing."""
    if not is_remote(folder):
        if not os.path.isdir(folder):
            return {}
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    try:
        listed = asked(file_system_of(folder).ls, folder, detail=True)
    except FileNotFoundError:
        return {}
    files = (entry for entry in listed if entry["type"] == "file")
    return {entry["name"].rpartition("/")[2]: entry["size"] for entry in files}


def names_below(folder: str) -> list[str]:
    """Returns the name of each file in a folder and its subfolders, relative to it.

    Hidden files and folders are left out.
    """
    if is_remote(folder):
        return [name for name in files_below(folder) if not is_hidden(name)]
    found, visited = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [name for name in folders if not is_hidden(name) and real not in visited]
        visited.add(real)  # links may lead back
        relative = os.path.relpath(parent, folder).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        found += [prefix + name for name in files if not is_hidden(name)]
    return found


def sizes_of(folder: str, names: Sequence[str]) -> list[int]:
    """Returns the size in bytes of each file, by its name relative to a folder."""
    if is_remote(folder):
        files = files_below(folder)
        return [files[name]["size"] for name in names]
    return [os.stat(os.path.join(folder, name)).st_size for name in names]


def is_hidden(name: str) -> bool:
    """Returns whether a file is hidden, or in a hidden folder; name: relative to its data set.

    `__MACOSX` is a folder of hidden files in ZIP files from macOS.
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def names_in(folder: str) -> set[str]:
    """Returns the names of the files in a folder; none if it is missing or cannot be read."""
    if is_remote(folder):
        return set(file_sizes(folder))
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def checksums(folder: str) -> dict[str, tuple[int, str]]:
    """Returns the size of each file in a folder of a bucket, and the bucket's checksum of it.

    The checksum is "" if the bucket has none. Files with equal sizes and checksums have the same
    bytes; with unequal checksums they may have them too (parts of an upload on S3).

    Raises:
      OSError: the bucket does not answer.
    """
    listed = asked(file_system_of(folder).ls, folder, detail=True)
    return {
        entry["name"].rpartition("/")[2]: (entry["size"], _checksum(entry))
        for entry in listed
        if entry["type"] == "file"
    }


def _checksum(entry: dict) -> str:
    """The checksum of a file as gcsfs or s3fs call it; "" if it has none."""
    found = entry.get("md5Hash") or entry.get("ETag") or ""
    return found.strip('"') if isinstance(found, str) else ""
