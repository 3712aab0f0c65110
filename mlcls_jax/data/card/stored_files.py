"""How large the files of the images are, and what a bucket says of them."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from mlcls_jax.data.card.timed_map import TimedMap
from mlcls_jax.data.readers.listing import checksums
from mlcls_jax.data.readers.storage import Part
from mlcls_jax.system.remote import is_remote


@dataclass(frozen=True)
class StoredFiles:
    """Where images are stored.

    paths: the path of each image.
    sizes: of each file in bytes; -1 if it is unknown, or there is no such file.
    far: whether reading an image is a request to a bucket.
    checksums: of each file by the bucket that holds it; "" if there is none.
    """

    paths: Sequence[str]
    sizes: list[int]
    far: list[bool]
    checksums: list[str]

    def __len__(self) -> int:
        return len(self.paths)


def stored_files(paths: Sequence[str], work: TimedMap) -> StoredFiles:
    """Returns the sizes of image files without opening any; each folder in a bucket is listed once.

    Args:
      paths: the path of each image, an address or a Part.
      work: the threads.
    """
    loose = [not isinstance(path, Part) and is_remote(path) for path in paths]
    folders = sorted(
        {_folder(path) for path, is_loose in zip(paths, loose, strict=True) if is_loose}
    )
    listed = dict(zip(folders, work.over(checksums, folders), strict=True))

    def entry(path: str) -> tuple[int, str]:
        return (listed[_folder(path)] or {}).get(path.rpartition("/")[2], (-1, ""))

    known = [entry(path) if far else (-1, "") for path, far in zip(paths, loose, strict=True)]
    near = [row for row, far in enumerate(loose) if not far]
    sizes = [size for size, _ in known]
    for row, size in zip(near, work.over(_size, [paths[row] for row in near]), strict=True):
        sizes[row] = -1 if size is None else size
    far = [is_loose or _is_far_part(path) for path, is_loose in zip(paths, loose, strict=True)]
    return StoredFiles(paths, sizes, far, [checksum for _, checksum in known])


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _is_far_part(path: str) -> bool:
    return isinstance(path, Part) and is_remote(path.shard)


def _size(path: str) -> int:
    if isinstance(path, Part):
        return path.size
    status = os.stat(path)
    return status.st_size if stat.S_ISREG(status.st_mode) else -1
