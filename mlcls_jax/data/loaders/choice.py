"""Chooses the loader of a run: `data.loader`, or for "auto" the faster one by a measured table.

The threads hold Python's lock for some microseconds of each image, so one process has a largest
rate on any number of cores.  tf.data takes more work per image and more seconds to start, but has
no such limit.  docs/input.md has the measurements, each with its command.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlcls_jax.config import Augment, Data
from mlcls_jax.data.images.augment import changes_pixels
from mlcls_jax.data.readers.storage import Part, is_remote

# Microseconds of a core per image, by the side in pixels (640x480 JPEGs; docs/input.md).
_SIDES = (16, 224, 456)
_THREADS, _TF_DATA = (68, 1070, 1680), (110, 1320, 3000)
# Microseconds per image that the threads keep each other from running: 1 / 16,900 images/s, which
# four threads on two cores read of the smallest images.  That is Python's lock and handing it over.
_LOCK = 59
# What RandAugment adds in both; it stands for all changes of pixels, which run in Python.  Its time
# under the lock is twice the 47 that py-spy saw, because py-spy saw 25 of a known 50.
_CHANGES, _LOCK_OF_CHANGES = (150, 430, 1460), 94
# TensorFlow takes some seconds to start, which few images do not win back.
_ENOUGH_IMAGES = 10_000
_NATIVE = ("gs://", "file://")  # addresses that TensorFlow reads itself
_FASTER = 1.1  # times, for the choice to change


@dataclass(frozen=True)
class Choice:
    """A key of LOADERS, and why it was chosen, in a few words."""

    name: str
    reason: str

    def __str__(self) -> str:
        """Returns both, for the header of a run."""
        return f"{self.name} ({self.reason})"


THREADS = Choice("threads", "the default")


def choose_loader(
    data: Data,
    augment: Augment,
    size: int,
    paths: Sequence[str],
    cores: int,
    has_tensorflow: bool | None = None,
) -> Choice:
    """Returns the loader of a run.

    Args:
      data: its loader, service and cache are used.
      augment: how images are resized and changed.
      size: side of the images in pixels.
      paths: the training images.
      cores: the number of cores that this process may use.
      has_tensorflow: whether TensorFlow is installed; None: finds out.

    Raises:
      ValueError: the package of the loader is not installed.
    """
    if has_tensorflow is None:
        has_tensorflow = _is_installed("tensorflow")
    if data.service:
        _require(has_tensorflow, "data.service", "tensorflow", "tf_data")
        return Choice("tf_data", f"data.service={data.service}")
    if data.loader == "tf_data":
        _require(has_tensorflow, "data.loader='tf_data'", "tensorflow", "tf_data")
    if data.loader == "grain":
        _require(_is_installed("grain"), "data.loader='grain'", "grain", "grain")
    if data.loader != "auto":
        return Choice(data.loader, f"data.loader={data.loader}")
    if data.cache != "none":
        return Choice("threads", f"data.cache={data.cache} is read by them")
    if augment.interpolation != "bilinear":
        return Choice("threads", f"augment.interpolation={augment.interpolation} is theirs")
    if paths and not is_native(paths[0]) and is_remote(paths[0]):
        return Choice("threads", "TensorFlow does not read this bucket by itself")
    if not has_tensorflow:
        return Choice("threads", f"{cores} cores, TensorFlow is not installed")
    if len(paths) < _ENOUGH_IMAGES:
        return Choice("threads", f"{len(paths):,} images are too few for TensorFlow's start to pay")
    if is_remote(paths[0]):
        return Choice("tf_data", "it reads the bucket without Python")
    threads, tf_data = rates(size, cores, changes_pixels(augment))
    faster = "tf_data" if tf_data > _FASTER * threads else "threads"
    return Choice(
        faster, f"{cores} cores, {size} px: about {threads:,.0f} or {tf_data:,.0f} images/s"
    )


@dataclass(frozen=True)
class Cost:
    """What an image costs a process.

    core: microseconds of one core.
    lock: microseconds under Python's lock, which one thread at a time can have.
    """

    core: float
    lock: float

    def rate(self, cores: float) -> float:
        """Returns the most images per second of one process on that many cores."""
        return 1e6 / max(self.core / cores, self.lock)


def costs(size: int, changes: bool) -> dict[str, Cost]:
    """Returns what an image costs each loader, by the table.

    Args:
      size: side of the images in pixels; beyond the table, its last column is used.
      changes: whether pixels are changed by Python, see `changes_pixels`.
    """
    of_threads, of_tf_data, of_changes = (
        float(np.interp(size, _SIDES, times)) for times in (_THREADS, _TF_DATA, _CHANGES)
    )
    core, lock = of_changes * changes, _LOCK_OF_CHANGES * changes
    return {
        "threads": Cost(of_threads + core, _LOCK + lock),
        "tf_data": Cost(of_tf_data + core, lock),
    }


def is_native(path: str) -> bool:
    """Returns whether TensorFlow reads a path by itself, in a way that may run elsewhere.

    It also reads parts of larger files, except for records of ArrayRecord files.
    """
    if isinstance(path, Part) and path.record is not None:
        return False
    file = path.shard if isinstance(path, Part) else path
    return not is_remote(file) or file.startswith(_NATIVE)


def rates(size: int, cores: int, changes: bool) -> tuple[float, float]:
    """Returns the images per second that threads and tf.data read at most, by the table.

    Args:
      size: side of the images in pixels.
      cores: the number of cores of the process.
      changes: whether pixels are changed by Python, see `changes_pixels`.

    >>> threads, tf_data = rates(224, cores=2, changes=False)
    >>> threads > tf_data
    True
    """
    found = costs(size, changes)
    return found["threads"].rate(cores), found["tf_data"].rate(cores)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _require(installed: bool, field: str, package: str, extra: str) -> None:
    if not installed:
        raise ValueError(
            f"config: {field} needs {package}, which is not installed; run pip install "
            f"'mlcls_jax[{extra}]', or set data.loader=threads"
        )
