"""Checksums of what is in a folder's subfolders, as `sha256sum -c SHA256SUMS` reads them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

FILE = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """Writes FILE about all that is in the subfolders; OSError where that fails."""
    lines = [f"{_digest(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / FILE).write_text("".join(lines), encoding="utf-8", newline="")


def damage(folder: Path, parts: Iterable[str] | None = None) -> str:
    """What is wrong with a folder, such as "model/manifest.ocdbt is missing"; "" if it is whole.

    Args:
        folder: with a FILE; without one, that is what is wrong.
        parts: subfolders to look at; None: all.
    """
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return f"{FILE} cannot be read"
    listed = dict(line.split("  ", 1)[::-1] for line in lines if "  " in line)
    if len(listed) < len(lines) or not listed:
        return f"{FILE} is cut short"
    parts = None if parts is None else set(parts)
    for name in _files(folder):  # a list that has lost its end is a list all the same
        if name not in listed and (parts is None or name.split("/")[0] in parts):
            return f"{name} is not in {FILE}"
    for name, digest in listed.items():
        if parts is not None and name.split("/")[0] not in parts:
            continue
        try:
            if _digest(folder / name) != digest:
                return f"{name} is not as it was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:
            return f"{name} cannot be read ({error})"
    return ""


def _files(folder: Path) -> list[str]:
    files = (file for file in folder.glob("*/**/*") if file.is_file())
    return sorted(file.relative_to(folder).as_posix() for file in files)


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
