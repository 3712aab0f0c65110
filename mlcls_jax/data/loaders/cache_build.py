"""Builds the decoded cache before the first batch.

The name of a cache file depends on the paths of the images and on how they are stored. A file is
used if the same libraries and code made it. An image in it is used if its file still has the same
size and modification time; other images are decoded again.
"""

import dataclasses
import errno
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.config import Augment, Data
from mlcls_jax.data.file_stamps import file_stamps
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.image_source import ImageFiles
from mlcls_jax.data.images.transforms import short_side
from mlcls_jax.data.loaders.cache import Cache, Form, file_name, make_header
from mlcls_jax.data.loaders.cache_store import Appending, InMemory, OnDisk, Store, read_rows
from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.data.loaders.threads import in_order
from mlcls_jax.system.console import Meter, console, format_bytes, print_warning, progress_bar
from mlcls_jax.system.devices import available_memory
from mlcls_jax.system.files import cache_folder
from mlcls_jax.system.lock import waited_for

# Shares of the free space; the rest is left for checkpoints on disk and for training in memory.
_SHARE_OF_DISK, _SHARE_OF_MEMORY = 0.9, 0.7
_SAMPLE = 64  # images whose headers are read to estimate the size of images that differ in size
_CHUNK = 32  # images that are started together
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def with_cache(
    reader: Reader, data: Data, augment: Augment, size: int, split: str, paths: Sequence[str]
) -> Reader:
    """Returns the reader of a split with the cache that the config asks for; builds it if needed.

    An interrupted build on disk continues the next time. A cache that would not fit is not built,
    and a warning says so.

    Args:
      reader: the reader of the files.
      data: its cache and cache_folder are used.
      augment: the augmentation of the batches.
      size: side of the batches' images in pixels.
      split: "train", or another split, which is only evaluated.
      paths: the paths of its images.

    Raises:
      ValueError: an image cannot be read and must not be skipped, the folder cannot be written, or
        its disk is full.
    """
    if data.cache == "none":
        return reader
    form = Form.of_split(split, augment, size, reader.pixels)
    files = ImageFiles(paths, size, augment, reader.pixels)
    build = _Build(reader, files, form, split)
    if data.cache == "memory":
        store = build.in_memory()
    else:
        store = build.on_disk(Path(data.cache_folder or cache_folder() / "images"))
    return dataclasses.replace(reader, cache=store and Cache(store, files))


@dataclass(frozen=True)
class _Build:
    """Builds the cache of one split."""

    reader: Reader
    files: ImageFiles
    form: Form
    split: str

    @property
    def _channels(self) -> int:
        return self.form.pixels.channels

    def in_memory(self) -> InMemory | None:
        """A new store with all images; None if they would not fit."""
        missing = np.arange(len(self.files.paths))
        needed, free = self._bytes(missing), _SHARE_OF_MEMORY * available_memory()
        if not self._fits(len(missing), needed, "in memory", free):
            return None
        store = InMemory(len(missing))
        self._decode(missing, store, np.zeros((len(missing), 2), np.int64))
        return store

    def on_disk(self, folder: Path) -> OnDisk | None:
        """The store of a file, completed if necessary; None if the images would not fit."""
        paths = self.files.paths
        path = folder / file_name(self.split, self.form, paths)
        header = make_header(len(paths), self._channels)
        stamps = file_stamps(paths, self.reader.workers())
        try:
            rows = read_rows(path, header)
            if rows is None or len(_missing(rows, stamps)):
                folder.mkdir(parents=True, exist_ok=True)
                with waited_for(path.with_suffix(".lock"), lambda text: _tell(f"{path}: {text}")):
                    if not self._complete(path, header, stamps):
                        return None
                    rows = read_rows(path, header)
            if rows is None:
                raise ValueError(
                    f"{path} was removed while it was opened; run the same command again"
                )
            _tell(f"{self.split}: {int((rows['height'] > 0).sum())} decoded images in {path}")
            return OnDisk(path, rows, self._channels)
        except OSError as error:
            raise ValueError(_disk_error(path, error)) from error

    def _complete(self, path: Path, header: dict[str, Any], stamps: np.ndarray) -> bool:
        """Adds the missing images to a file; returns False if they would not fit."""
        rows = read_rows(path, header)  # read again, because another process may have added images
        missing = np.arange(len(stamps)) if rows is None else _missing(rows, stamps)
        if not len(missing):
            return True
        if rows is not None:
            changed = int((rows["height"][missing] != 0).sum())
            found = f"{path} has {len(rows) - len(missing)} of {len(rows)} images"
            _tell(found + (f"; {changed} have changed and are decoded again" * bool(changed)))
        elif path.exists():
            _tell(
                f"{path} was made by other versions of the libraries or of mlcls_jax; "
                "it is replaced"
            )
        needed, free = self._bytes(missing), shutil.disk_usage(path.parent).free
        if not self._fits(len(missing), needed, f"in {path}", _SHARE_OF_DISK * free):
            return False
        try:
            with Appending(path, header, rows) as store:
                self._decode(missing, store, stamps)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise ValueError(
                f"{path}: no room for {len(missing)} decoded images, {format_bytes(needed)} "
                f"({error.strerror}); free some space and run the same command again, which "
                "continues from the images already stored, or delete the file and set another "
                "data.cache_folder or data.cache=none"
            ) from error
        return True

    def _decode(self, missing: np.ndarray, store: Store, stamps: np.ndarray) -> None:
        """Decodes the missing images with all threads and stores them in order."""

        def make(index: int) -> tuple[np.ndarray, int, int]:
            return self.form.make(self.files.open(index))

        def begin(step: int, pool: ThreadPoolExecutor) -> list[tuple[int, Future]]:
            part = missing[step * _CHUNK : (step + 1) * _CHUNK].tolist()
            return [(index, pool.submit(make, index)) for index in part]

        meter, steps = Meter(len(missing), 1), range(-(-len(missing) // _CHUNK))
        with progress_bar(f"cache of {self.split}", meter, not console.quiet) as refresh:
            for tasks in in_order(begin, steps, _CHUNK, self.reader.workers()):
                for index, task in tasks:
                    row = {"size": int(stamps[index, 0]), "mtime": int(stamps[index, 1])}
                    try:
                        pixels, row["whole_height"], row["whole_width"] = task.result()
                    except ImageError as error:
                        self.reader.bad.report(self.files.paths[index], error)
                        pixels = None
                    store.add(index, row, pixels)
                meter.advance(len(tasks))
                refresh()

    def _fits(self, count: int, needed: float, location: str, free: float) -> bool:
        """Prints what is about to be stored, or warns that it does not fit."""
        about = "about " if self.form.is_whole else ""
        size = f"{about}{format_bytes(needed)}, {location}"
        content = f"{self.split}: {count} decoded images, {size}"
        if needed <= free:
            _tell(content)
            return True
        print_warning(
            f"cache of {content}, would not fit: it may take {format_bytes(free)} of the free "
            "space there; continuing without this cache"
        )
        return False

    def _bytes(self, missing: np.ndarray) -> float:
        """The bytes that the missing images need; estimated from a sample if sizes differ."""
        if not self.form.is_whole:
            return float(self._channels * self.form.side**2) * len(missing)
        areas = []
        for index in missing[:: -(-len(missing) // _SAMPLE)].tolist():
            try:
                image = self.files.open(index)
            except ImageError:
                continue
            height, width = short_side(image.height, image.width, self.form.side)
            areas.append(height * width)
        return self._channels * float(np.mean(areas or [0])) * len(missing)


def _missing(rows: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """The indices of images that are not stored or whose file has changed."""
    same = (rows["size"] == stamps[:, 0]) & (rows["mtime"] == stamps[:, 1])
    return np.flatnonzero((rows["height"] == 0) | ~same)


def _disk_error(path: Path, error: OSError) -> str:
    return (
        f"{path}: the decoded images cannot be stored there ({error.strerror or error}); set "
        "data.cache_folder to a folder on a local disk, or data.cache=none"
    )


def _tell(text: str) -> None:
    console.print(f"cache: {text}")
