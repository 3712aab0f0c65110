"""What every loader of batches shares: its interface, the rows of a process, and how it reads.

Training images form one endless stream of epochs. Each epoch is a permutation of all images, or has
some of them several times in place of others (data.oversample), and depends only on (seed, epoch).
Batch number b has the positions b*size to (b+1)*size of the stream, so every batch is full, and
training can continue at any step without replaying earlier ones.  Each loader yields the same
stream.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import jax
import numpy as np

from mlcls_jax.config import Augment, Data
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.images.bad_images import BadImages
from mlcls_jax.data.images.image_source import ImageSource
from mlcls_jax.data.images.pixel_format import PixelFormat, pixel_format
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.records import tensorflow
from mlcls_jax.data.sampling import stream_order
from mlcls_jax.system import distributed
from mlcls_jax.system.devices import is_first_process


class Loader(Protocol):
    """Makes batches.  The modules of this package are loaders."""

    def train_batches(
        self,
        table: LabelTable,
        *,
        first_step: int,
        last_step: int,
        rows: "Rows",
        size: int,
        augment: Augment,
        seed: int,
        reader: "Reader",
    ) -> Iterator[Batch]:
        """Implements `train_batches`."""
        ...

    def eval_batches(
        self,
        paths: Sequence[str],
        *,
        rows: "Rows",
        size: int,
        augment: Augment,
        reader: "Reader",
    ) -> Iterator[np.ndarray]:
        """Implements `eval_batches`."""
        ...


LOADERS = {
    "threads": "mlcls_jax.data.loaders.threads",
    "tf_data": "mlcls_jax.data.loaders.tf_data",
    "grain": "mlcls_jax.data.loaders.grain_dataset",
}


@dataclass(frozen=True)
class Rows:
    """This process's share of each global batch: rows start to start + count."""

    batch_size: int
    start: int
    count: int


@dataclass(frozen=True)
class Reader:
    """How a process reads images.

    pixels: see `open_image`.
    threads: the number of threads; 0: one more than the cores, because one may wait for a disk.
    bad: handles images that cannot be read.
    cache: the decoded images of one split, with the size and augmentation of the batches; None:
        images are read from their files.
    loader: a key of LOADERS.
    service: address of a tf.data service that decodes training images; "": this process does.
    files: what tf_data has made of the paths of images, see `tf_files.files_of`.
    """

    pixels: PixelFormat = field(default_factory=PixelFormat)
    threads: int = 0
    bad: BadImages = field(default_factory=BadImages)
    cache: ImageSource | None = None
    loader: str = "threads"
    service: str = ""
    files: list[Any] = field(default_factory=list, compare=False, repr=False)

    def workers(self) -> int:
        """Returns the number of threads on this machine."""
        return self.threads or cores() + 1


def make_reader(
    data: Data,
    channels: int,
    images: int,
    written: Path | None = None,
    tell: Callable[[str], None] | None = None,
    loader: str = "threads",
) -> Reader:
    """Returns the reader that a config asks for.

    Args:
      data: its threads, limits and bit_depth are used.
      channels: the field model.in_channels.
      images: the number of images, of which data.max_bad_fraction may be skipped.
      written: the CSV that lists the skipped images of all processes; the first process writes it.
      tell: see BadImages.
      loader: a key of LOADERS.
    """
    limit, skip = int(data.max_bad_fraction * images), data.on_bad_image == "skip"
    if not distributed.is_multiprocess():
        bad = BadImages(skip, limit, written, tell)
    else:
        share = partial(distributed.share, "bad_images")
        bad = BadImages(skip, limit, written if is_first_process() else None, tell, share)
    pixels = pixel_format(data, channels)
    return Reader(pixels, data.threads, bad, loader=loader, service=data.service)


def cores() -> int:
    """Returns the number of cores that this process may use; a scheduler may limit them."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def local_rows(batch_size: int, field: str) -> Rows:
    """Returns this process's rows when a global batch is split evenly over the processes.

    Args:
      batch_size: the size of the global batch.
      field: the config field that sets it, for the error message.

    Raises:
      ValueError: batch_size is not a multiple of the number of devices.
    """
    devices, processes = jax.device_count(), jax.process_count()
    if batch_size % devices:
        raise ValueError(
            f"config: {field} is {batch_size}, which cannot be split evenly over {devices} "
            f"devices; use a multiple of {devices}"
        )
    count = batch_size // processes
    return Rows(batch_size, jax.process_index() * count, count)


def train_batches(
    table: LabelTable,
    *,
    first_step: int,
    last_step: int,
    rows: Rows,
    size: int,
    augment: Augment,
    seed: int,
    reader: Reader | None = None,
) -> Iterator[Batch]:
    """Yields this process's rows of the training batches, on the host.

    A skipped image is replaced by another one, which depends on (seed, epoch, index).

    Args:
      table: training images and labels.
      first_step: the first step.
      last_step: the step after the last one.
      rows: the rows of this process.
      size: side of the images in pixels.
      augment: the augmentation; its result is a function of (seed, epoch, index of the image).
      seed: the seed of order and augmentation.
      reader: how images are read; by default, an image that cannot be read is an error.

    Raises:
      ValueError: an image cannot be read; names it.
    """
    reader = reader or Reader()
    return _loader(reader).train_batches(
        table,
        first_step=first_step,
        last_step=last_step,
        rows=rows,
        size=size,
        augment=augment,
        seed=seed,
        reader=reader,
    )


def eval_batches(
    paths: Sequence[str],
    *,
    rows: Rows,
    size: int,
    augment: Augment,
    reader: Reader | None = None,
) -> Iterator[np.ndarray]:
    """Yields this process's rows of the images in order: uint8 [rows, size, size, channel].

    All batches of all processes have the same shape. Rows beyond len(paths) and skipped images are
    black, and must be ignored.

    Args:
      paths: the path of each image.
      rows: the rows of this process.
      size: side of the images in pixels.
      augment: its eval_resize and interpolation are used.
      reader: how images are read; by default, an image that cannot be read is an error.

    Raises:
      ValueError: an image cannot be read; names it.
    """
    reader = reader or Reader()
    return _loader(reader).eval_batches(paths, rows=rows, size=size, augment=augment, reader=reader)


def batch_filenames(table: LabelTable, step: int, batch_size: int, seed: int) -> list[str]:
    """Returns the file names of the global batch of a training step."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    indices = stream_order(positions, len(table), seed, table.repeats)[1]
    return [table.filenames[i] for i in indices]


def _loader(reader: Reader) -> Loader:
    """The module of a reader's loader."""
    if reader.loader == "tf_data":
        return cast(Loader, tf_module("tf_data"))
    return cast(Loader, importlib.import_module(LOADERS[reader.loader]))


def tf_module(name: str) -> Any:
    """Returns a module of this package that needs TensorFlow, such as "tf_pipeline".

    Raises:
      ValueError: TensorFlow is not installed.
    """
    tensorflow("data.loader=tf_data")
    return importlib.import_module(f"mlcls_jax.data.loaders.{name}")
