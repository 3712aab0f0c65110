"""Sizes, times and sampled contents of image files, by which a change is noticed without reading
all of them."""

import hashlib
import math
import os
from collections.abc import Sequence

import numpy as np

from mlcls_jax.data.card.timed_map import TimedMap
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.readers.storage import Part, is_remote

# Images of a split whose contents are compared; each one in a bucket is a request.
SAMPLED, SAMPLED_FAR = 64, 8
_BYTES = 16  # of a digest


def file_stamps(paths: Sequence[str], threads: int, seconds: float = math.inf) -> np.ndarray:
    """Returns the size in bytes and the modification time of each file.

    For an image in a shard, the time is that of the shard.  Files in a bucket are not asked for.

    Args:
      paths: a path, an address or a Part for each image.
      threads: their number, as a network disk answers slowly.
      seconds: after which no further file is asked for.

    Returns:
      int64 [n, 2], the time in nanoseconds; -1 if it is unknown, or the file is missing.
    """
    with TimedMap(threads, seconds) as work:
        found = work.over(_stamp, paths)
    rows = [(-1, -1) if stamp is None else stamp for stamp in found]
    return np.array(rows, np.int64).reshape(-1, 2)


def _stamp(path: str) -> tuple[int, int]:
    is_part = isinstance(path, Part)
    size = path.size if is_part else -1
    file = path.shard if is_part else path
    if is_remote(file):
        return size, -1
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return size, -1
    return size if is_part else status.st_size, status.st_mtime_ns


def sampled_contents(paths: Sequence[str], threads: int, seconds: float) -> dict[int, str]:
    """Returns digests of the contents of a few images, by the row of the image.

    Args:
      paths: a path, an address or a Part for each image.
      threads: number of threads that read.
      seconds: after which no further image is read.
    """
    if not len(paths):
        return {}
    first = paths[0]
    is_far = is_remote(first.shard if isinstance(first, Part) else first)
    count = min(len(paths), SAMPLED_FAR if is_far else SAMPLED)
    rows = sorted({row * (len(paths) - 1) // max(count - 1, 1) for row in range(count)})
    with TimedMap(threads, seconds) as work:
        found = work.over(_digest, [paths[row] for row in rows])
    return {row: digest for row, digest in zip(rows, found, strict=True) if digest}


def _digest(path: str) -> str:
    """The digest of a file; "" if it cannot be read, which the run itself reports."""
    try:
        return hashlib.blake2b(read_file(path), digest_size=_BYTES).hexdigest()
    except ImageError:
        return ""
