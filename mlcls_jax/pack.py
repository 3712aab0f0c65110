"""Packs a data set into a few large files, for network disks and buckets.

    mlcls-jax pack --csv labels.csv --images photos --out photos.pack [--check]
    mlcls-jax pack --csv labels.csv --images photos --out photos.pack --format tfrecord
    mlcls-jax pack --tfds coco/2017 --split train --image-feature image \\
        --label-feature objects/label --out gs://bucket/coco_train

Train from it with --config.data.csv=photos.pack, without data.images. Image files are packed
unchanged, so training on them gives the same result. mlcls_jax/data/readers/packed.py describes
the format.
"""

import argparse
import itertools
import os
import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mlcls_jax.options.pack import CSV_FIELDS, check, parse

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

from mlcls_jax.config import Data
from mlcls_jax.config.source_checks import check_source
from mlcls_jax.data.images.decoding import check_image, image_libraries
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_labels import labels_csv
from mlcls_jax.data.readers.csv_options import GROUP_COLUMN
from mlcls_jax.data.readers.packed import packing, read_packed
from mlcls_jax.data.readers.read_table import read_table
from mlcls_jax.data.readers.storage import read_whole
from mlcls_jax.system import command_line
from mlcls_jax.system.console import quoted

MEGABYTE = 1_000_000
READERS = 16  # threads; reading small files from a network disk is mostly waiting
AHEAD = 64  # images that are read in advance

Images = Iterator[tuple[str, bytes | ImageError]]


def read_images(names: Iterable[str], paths: Iterable[str]) -> Images:
    """Yields (file name, contents) of each image, in order.

    The contents are an ImageError if the image cannot be read.

    Args:
      names: file names.
      paths: the path of each image.
    """

    def read(path: str) -> bytes | ImageError:
        try:
            return read_file(path)
        except ImageError as error:
            return error

    queue: deque[tuple[str, Any]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for name, path in zip(names, paths, strict=True):
            queue.append((name, pool.submit(read, path)))
            if len(queue) > AHEAD:
                name, task = queue.popleft()
                yield name, task.result()
        for name, task in queue:
            yield name, task.result()


def pack(
    table: LabelTable,
    labels: Callable[[], bytes],
    out: str,
    *,
    shard_bytes: int,
    shard_format: str,
    check: bool,
    columns: dict[str, str],
) -> int:
    """Writes a packed data set.

    Args:
      table: the images, and the labels that are written next to them.
      labels: returns the contents of the label CSV; called after the last image.
      out: a new folder or address.
      shard_bytes: the largest size of each file; see `packing`.
      shard_format: tar, tfrecord or array_record; see `shards`.
      check: whether to read the header of each image.
      columns: filename_column, split_column and perhaps group_column of the CSV.

    Returns:
      The number of images.

    Raises:
      ValueError: images cannot be read (the message names all of them), the labels are wrong,
        `out` already exists or cannot be written, or a package is missing.
    """
    count, bad = len(table), {}
    with packing(out, shard_bytes, shard_format, table.classes) as packer:
        images = read_images(table.filenames, table.paths)
        targets = itertools.repeat(None) if table.targets is None else table.targets
        for (name, contents), row, soft in zip(images, table.labels, targets, strict=False):
            reason = contents if isinstance(contents, ImageError) else None
            if check and isinstance(contents, bytes):
                reason = header_error(contents)
            if reason:
                bad[name] = str(reason)
            elif isinstance(contents, bytes) and not bad:
                packer.add(name, contents, row, soft)
        if bad:
            raise ValueError(
                f"{len(bad)} of {count} images cannot be read: {quoted(bad, len(bad))}; the "
                f"first: {next(iter(bad.values()))}; replace the files or remove their rows"
            )
        packer.finish(labels())
        read_packed(packer.folder, **columns)  # refuses labels that training could not read
    return count


def header_error(contents: bytes) -> ImageError | None:
    """Returns the error from reading the header of an image, or None."""
    try:
        check_image(contents, Data().max_pixels)
    except ImageError as error:
        return error
    return None


@image_libraries()
def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code.

    Raises:
      ValueError: an option, the labels or an image is wrong; nothing is written then.
    """
    options = parse(argv)
    table, data = _table(options)
    for note in table.notes:
        print(note)
    names = {name: getattr(data, name) for name in ("filename_column", "split_column")}
    if data.group_column:
        names["group_column"] = data.group_column
    documented = Data(csv=data.csv, images=data.images, **names)
    if options.csv and data == documented and not Path(options.csv).expanduser().is_dir():
        labels, columns = partial(read_whole, os.path.expanduser(options.csv)), names
    else:  # as a CSV that training reads without options
        columns = {"filename_column": "filename", "split_column": "split" if table.splits else ""}
        if table.groups is not None:
            columns["group_column"] = GROUP_COLUMN

        def labels() -> bytes:
            return labels_csv(table).encode()

    count = pack(
        table,
        labels,
        options.out,
        shard_bytes=int(options.shard_mb * MEGABYTE),
        shard_format=options.format,
        check=options.check,
        columns=columns,
    )
    default = Data()
    fields = [
        f" --config.data.{name}={shlex.quote(value)}"
        for name, value in columns.items()
        if value and value != getattr(default, name)
    ]
    line = f"--config.data.csv={options.out}{''.join(fields)}"
    print(f"packed {count} images; train from them with {line}")
    return 0


def _table(options: argparse.Namespace) -> tuple[LabelTable, Data]:
    """The images and labels to pack, and the fields of a config that name them."""
    if options.tfds:  # one split, with the default rules for crowds and difficult objects
        data = Data(source="tfds", csv=f"{options.tfds}[{options.split}]", images=options.data_dir)
        data.image_feature, data.label_feature = options.image_feature, options.label_feature
    else:
        data = Data(csv=options.csv, images=options.images)
        for name in CSV_FIELDS:
            setattr(data, name, getattr(options, name))
        check_source(data)
    return read_table(data, data.csv, data.images), data


if __name__ == "__main__":
    command_line.run(main)
