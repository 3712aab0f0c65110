"""Files that are whole or not there: written beside their place, then renamed."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path`; the file written there takes path's place if all goes well.

    The name is nobody else's, on other machines neither: of several writers the last one wins.
    It is on the disk before it has its name: a loss of power leaves no empty file.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the name `path` if all goes well, and is gone if not.

    Raises:
        ValueError: there is something already, or the folder cannot be made.
    """
    path = Path(os.path.abspath(path))  # "." has no name
    check_new(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise ValueError(f"the folder {path} cannot be made: {error}") from error
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_new(path: Path) -> None:
    """ValueError where there is something else than an empty folder already."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} is there already; name a new folder, or remove it first")


def check_writable(folder: Path) -> None:
    """ValueError where no file can be written: said before the work whose results go there."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise ValueError(f"{folder}: no file can be written there ({error.strerror})") from error


def leftovers(folder: Path) -> list[Path]:
    """What writers that were killed left in a folder."""
    return [file for file in folder.glob(".*.partial") if file.is_file()]


def write_text(path: Path, text: str) -> None:
    """Writes the text as UTF-8, its line ends as they are; ValueError where that fails."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, contents: bytes) -> None:
    """Writes a file; ValueError where that fails."""
    try:
        with replacing(path) as partial:
            partial.write_bytes(contents)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error


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


def cache_folder() -> Path:
    """Where downloads and compiled programs are kept: $MLCLS_JAX_CACHE or ~/.cache/mlcls_jax."""
    return Path(os.environ.get("MLCLS_JAX_CACHE", "~/.cache/mlcls_jax")).expanduser()
