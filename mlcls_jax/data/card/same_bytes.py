"""Finds images whose files have the same bytes, and reads almost none of the others."""

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

from mlcls_jax.data.card.stored_files import StoredFiles
from mlcls_jax.data.card.timed_map import TimedMap
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.readers.storage import Part, read_part

MAX_READ = 20_000  # files of equal sizes of which a part is read
_PART = 4096  # bytes of it

Groups = list[list[int]]


def same_bytes(files: StoredFiles, work: TimedMap, limit: int = MAX_READ) -> tuple[Groups, int]:
    """Returns groups of images with the same bytes, and how many images were compared.

    Images of different sizes differ. Of the others, a part in the middle is read, and of those that
    agree in it the whole file. If very many files have equal sizes, only some sizes are compared:
    of two equal images both are, or neither. In a bucket nothing is read: its checksums are
    compared, if it has them.

    Args:
      files: the images.
      work: the threads.
      limit: of the files of which a part is read.

    Returns:
      Indices of the images, in their order.
    """
    near = [row for row, size in enumerate(files.sizes) if size >= 0 and not files.far[row]]
    # Empty files are equal, but no images.
    groups, omitted = _some(_split([near], lambda row: files.sizes[row] or None), limit)
    compared = len(near) - omitted
    for key in (_middle, digest):
        rows = [row for group in groups for row in group]
        found = work.over(functools.partial(_of_row, key, files.paths), rows)
        compared -= found.count(None)
        groups = _split(groups, dict(zip(rows, found, strict=True)).__getitem__)
    summed = [row for row, checksum in enumerate(files.checksums) if checksum]
    groups += _split([summed], lambda row: (files.sizes[row], files.checksums[row]))
    return sorted(groups), compared + len(summed)


def _some(groups: Groups, limit: int) -> tuple[Groups, int]:
    """Groups with at most `limit` rows together, and the number of rows that are left out."""
    total, room, chosen = sum(map(len, groups)), limit, []
    # In an order that says nothing about the images, and is the same on every machine.
    for group in sorted(groups, key=lambda group: hashlib.blake2b(b"%d" % group[0]).digest()):
        part = group[:room]
        chosen += [part] if len(part) > 1 else []
        room -= len(part)
    return chosen, total - sum(map(len, chosen))


def _split(groups: Groups, key: Callable[[int], Hashable]) -> Groups:
    """Parts of the groups with equal keys, without parts of one row and rows without a key."""
    parts: dict[tuple[int, Hashable], list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        for row in group:
            value = key(row)
            if value is not None:
                parts[number, value].append(row)
    return [part for part in parts.values() if len(part) > 1]


def _of_row(key: Callable[[str], bytes], paths: Sequence[str], row: int) -> bytes:
    try:
        return key(paths[row])
    except ImageError as error:
        raise OSError(str(error)) from error


def _middle(path: str) -> bytes:
    """Some bytes from the middle of a file, where images of one camera differ."""
    if isinstance(path, Part):
        start = path.size // 2
        length = min(_PART, path.size - start)
        return read_part(Part(str(path), path.shard, path.offset + start, length, path.record))
    with open(path, "rb") as file:
        file.seek(os.fstat(file.fileno()).st_size // 2)
        return file.read(_PART)


def digest(path: str) -> bytes:
    """Returns the BLAKE2b hash of an image file.

    Raises:
      ImageError: this file cannot be read.
      OSError: the disk fails.
    """
    return hashlib.blake2b(read_file(path), digest_size=16).digest()
