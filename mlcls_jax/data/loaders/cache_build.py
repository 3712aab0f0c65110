"""The making of the decoded cache, before the first batch.

A file is named by the images' paths and by what is kept of them.  It is used if the libraries
and the code that made it are those at hand, and each of its images if its file has the size and
the time of change that it had; others are decoded again.
"""

import dataclasses
import errno
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.config import Augment, Data
from mlcls_jax.data.images.decoding import ImageError
from mlcls_jax.data.images.image_source import ImageFiles
from mlcls_jax.data.images.transforms import short_side
from mlcls_jax.data.loaders.cache import Cache, Form, file_name, make_header
from mlcls_jax.data.loaders.cache_store import Appending, InMemory, OnDisk, Store, read_rows
from mlcls_jax.data.loaders.threads import Reader, in_order
from mlcls_jax.data.readers.storage import Part
from mlcls_jax.system.console import Meter, console, print_warning, progress_bar
from mlcls_jax.system.devices import available_memory
from mlcls_jax.system.files import cache_folder
from mlcls_jax.system.lock import waited_for

# Of what is free: the rest is for checkpoints on a disk, and for the training in memory.
_SHARE_OF_DISK, _SHARE_OF_MEMORY = 0.9, 0.7
_SAMPLE = 64  # images whose headers tell how large all are, where they differ
_CHUNK = 32  # images that are begun together
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def with_cache(
    reader: Reader, data: Data, augment: Augment, size: int, split: str, paths: Sequence[str]
) -> Reader:
    """The reader of a split, with the cache that the config asks for: opened, or built first.

    A build that is interrupted goes on the next time, if it is on disk.  What would not fit is
    not built, which is told.

    Args:
        reader: of the files.
        data: cache and cache_folder.
        augment: of the batches.
        size: of the batches' images, in pixels.
        split: "train", or another one that is only evaluated.
        paths: files of its images.

    Raises:
        ValueError: an image cannot be read and must not be skipped; the folder cannot be
            written, or its disk is full.
    """
    if data.cache == "none":
        return reader
    form = Form.of_split(split, augment, size, reader.max_pixels)
    files = ImageFiles(paths, size, augment, reader.max_pixels)
    build = _Build(reader, files, form, split)
    if data.cache == "memory":
        store = build.in_memory()
    else:
        store = build.on_disk(Path(data.cache_folder or cache_folder() / "images"))
    return dataclasses.replace(reader, cache=store and Cache(store, files))


@dataclass(frozen=True)
class _Build:
    """The making of a split's cache."""

    reader: Reader
    files: ImageFiles
    form: Form
    split: str

    def in_memory(self) -> InMemory | None:
        """A new store with all images; None where they would not fit."""
        missing = np.arange(len(self.files.paths))
        needed, free = self._bytes(missing), _SHARE_OF_MEMORY * available_memory()
        if not self._fits(len(missing), needed, "in memory", free):
            return None
        store = InMemory(len(missing))
        self._decode(missing, store, np.zeros((len(missing), 2), np.int64))
        return store

    def on_disk(self, folder: Path) -> OnDisk | None:
        """The store of a file that has all images, now if not before; None: as above."""
        paths = self.files.paths
        path = folder / file_name(self.split, self.form, paths)
        header, stamps = make_header(len(paths)), _stamps(paths, self.reader.workers())
        try:
            rows = read_rows(path, header)
            if rows is None or len(_missing(rows, stamps)):
                folder.mkdir(parents=True, exist_ok=True)
                with waited_for(path.with_suffix(".lock"), lambda text: _tell(f"{path}: {text}")):
                    if not self._complete(path, header, stamps):
                        return None
                    rows = read_rows(path, header)
            if rows is None:
                raise ValueError(f"{path} has gone while it was opened; start again")
            _tell(f"{self.split}: {int((rows['height'] > 0).sum())} decoded images in {path}")
            return OnDisk(path, rows)
        except OSError as error:
            raise ValueError(_disk_error(path, error)) from error

    def _complete(self, path: Path, header: dict[str, Any], stamps: np.ndarray) -> bool:
        """Adds to a file what is missing in it; whether all is there now."""
        rows = read_rows(path, header)  # as another process may have left it by now
        missing = np.arange(len(stamps)) if rows is None else _missing(rows, stamps)
        if not len(missing):
            return True
        if rows is not None:
            changed = int((rows["height"][missing] != 0).sum())
            have = f"{path} has {len(rows) - len(missing)} of {len(rows)} images"
            _tell(have + (f"; {changed} have changed since and are decoded again" * bool(changed)))
        elif path.exists():
            _tell(f"{path} was made by other versions of the libraries or of this one; made anew")
        needed, free = self._bytes(missing), shutil.disk_usage(path.parent).free
        if not self._fits(len(missing), needed, f"at {path}", _SHARE_OF_DISK * free):
            return False
        try:
            with Appending(path, header, rows) as store:
                self._decode(missing, store, stamps)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise ValueError(
                f"{path}: no room for {len(missing)} decoded images, {_size(needed)} "
                f"({error.strerror}); what is there is kept, and the next start goes on from it: "
                "make room, or delete it and set another data.cache_folder or data.cache=none"
            ) from error
        return True

    def _decode(self, missing: np.ndarray, store: Store, stamps: np.ndarray) -> None:
        """Stores the missing images in their order, decoded by all threads."""

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

    def _fits(self, count: int, needed: float, where: str, free: float) -> bool:
        """Announces what is about to be stored, or why it is not."""
        about = "about " if self.form.is_whole else ""
        what = f"{self.split}: {count} decoded images, {about}{_size(needed)}, {where}"
        if needed <= free:
            _tell(what)
            return True
        print_warning(
            f"cache of {what}, would not fit: they may take {_size(free)} of what is free there; "
            "going on without this cache"
        )
        return False

    def _bytes(self, missing: np.ndarray) -> float:
        """That the missing images take: all are alike, or else by a sample of them."""
        if not self.form.is_whole:
            return 3.0 * self.form.side**2 * len(missing)
        areas = []
        for index in missing[:: -(-len(missing) // _SAMPLE)].tolist():
            try:
                image = self.files.open(index)
            except ImageError:
                continue
            height, width = short_side(image.height, image.width, self.form.side)
            areas.append(height * width)
        return 3.0 * float(np.mean(areas or [0])) * len(missing)


def _missing(rows: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """Indices of images that are not there, or whose file has changed."""
    same = (rows["size"] == stamps[:, 0]) & (rows["mtime"] == stamps[:, 1])
    return np.flatnonzero((rows["height"] == 0) | ~same)


def _stamps(paths: Sequence[str], workers: int) -> np.ndarray:
    """int64 [n, 2]: bytes and time of change of each file, -1 where there is none.

    Of a part of a shard: its bytes, and the time of the shard, -1 for one in a bucket.
    """

    def stamp(path: str) -> tuple[int, int]:
        is_part = isinstance(path, Part)
        try:
            status = os.stat(path.shard if is_part else path)
        except (OSError, ValueError):
            return path.size if is_part else -1, -1
        return path.size if is_part else status.st_size, status.st_mtime_ns

    with ThreadPoolExecutor(workers) as pool:  # a folder on another machine answers slowly
        return np.array(list(pool.map(stamp, paths)), np.int64).reshape(-1, 2)


def _disk_error(path: Path, error: OSError) -> str:
    return (
        f"{path}: the decoded images cannot be kept there ({error.strerror or error}); name a "
        "data.cache_folder on a local disk, or data.cache=none"
    )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.1f} MB"


def _tell(text: str) -> None:
    console.print(f"cache: {text}")
