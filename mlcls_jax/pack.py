"""A packed data set, for network disks and buckets: few large files instead of many small ones.

    python -m mlcls_jax.pack --csv labels.csv --images photos --out photos.pack [--check]
    python -m mlcls_jax.pack --tfds coco/2017 --split train --image_feature image \\
        --label_feature objects/label --out gs://bucket/coco_train

Then --config.data.csv=photos.pack, without data.images.  The files of the images are packed as
they are, so training on them gives the same run;
mlcls_jax/data/readers/packed.py describes the format.
"""

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from to_csv import labels_csv

from mlcls_jax.cli import INTERRUPTED
from mlcls_jax.config import Data
from mlcls_jax.data.images.decoding import ImageError, open_image, read_file
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_cells import quoted
from mlcls_jax.data.readers.csv_labels import SPLIT_COLUMN, read_labels
from mlcls_jax.data.readers.packed import packing, read_packed
from mlcls_jax.data.readers.read_table import read_table

MEGABYTE = 1_000_000
READERS = 16  # threads: on a network disk, a small file is mostly waiting
AHEAD = 64  # images that are read before they are written

Images = Iterator[tuple[str, bytes | ImageError]]


def read_images(names: Iterable[str], paths: Iterable[str]) -> Images:
    """Names and contents in their order; in place of contents, why there are none."""

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
    images: Images,
    labels: Callable[[], bytes],
    out: str,
    *,
    shard_bytes: int,
    check: bool,
    columns: dict[str, str],
) -> int:
    """Writes a packed data set.

    Args:
        images: file names and contents.
        labels: the label CSV's contents; asked for after the last image.
        out: a new folder or address.
        shard_bytes: see `packing`.
        check: whether to read the header of each image.
        columns: filename_column and split_column of the CSV.

    Returns:
        How many images there are.

    Raises:
        ValueError: images that cannot be read, all of them named; bad labels; see `packing`.
    """
    count, bad = 0, {}
    with packing(out, shard_bytes) as packer:
        for name, contents in images:
            count += 1
            reason = contents if isinstance(contents, ImageError) else None
            if check and isinstance(contents, bytes):
                reason = header_error(contents)
            if reason:
                bad[name] = str(reason)
            elif isinstance(contents, bytes) and not bad:
                packer.add(name, contents)
        if bad:
            raise ValueError(
                f"{len(bad)} of {count} images cannot be read: {quoted(bad, len(bad))}; the "
                f"first: {next(iter(bad.values()))}; mend the files or remove their rows"
            )
        packer.finish(labels())
        read_packed(packer.folder, **columns)  # ValueError about labels that nobody could read
    return count


def header_error(contents: bytes) -> ImageError | None:
    """Why an image cannot be opened, or None."""
    try:
        open_image(contents)
    except ImageError as error:
        return error
    return None


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    columns = {"filename_column": options.filename_column, "split_column": options.split_column}
    try:
        if options.tfds:
            table = _tfds_table(options)
            columns = {"filename_column": "filename", "split_column": ""}

            def labels() -> bytes:
                return labels_csv(table).encode()
        else:
            table = read_labels(options.csv, options.images, **columns)
            labels = Path(options.csv).expanduser().read_bytes
        images = read_images(table.filenames, table.paths)
        count = pack(
            images,
            labels,
            options.out,
            shard_bytes=int(options.shard_mb * MEGABYTE),
            check=options.check,
            columns=columns,
        )
    except (ValueError, OSError) as error:
        print(f"pack_dataset: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pack_dataset: stopped; {options.out} is not finished", file=sys.stderr)
        return INTERRUPTED
    print(f"packed {count} images; use them with --config.data.csv={options.out}")
    return 0


def _tfds_table(options: argparse.Namespace) -> LabelTable:
    """Of one split, by the usual rules about crowds and difficult objects."""
    wanted = Data(source="tfds", csv=f"{options.tfds}[{options.split}]", images=options.data_dir)
    wanted.image_feature, wanted.label_feature = options.image_feature, options.label_feature
    return read_table(wanted, wanted.csv, wanted.images)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Packs images and labels into few large files.")
    parser.add_argument("--csv", default="", help="labels, as for training")
    parser.add_argument("--images", default="", help="folder of the images in it")
    parser.add_argument("--filename_column", default="filename")
    parser.add_argument("--split_column", default=SPLIT_COLUMN)
    parser.add_argument("--tfds", default="", help="instead: a TFDS data set, such as coco/2017")
    parser.add_argument("--split", default="train", help="of the TFDS data set")
    parser.add_argument("--image_feature", default=Data().image_feature)
    parser.add_argument("--label_feature", default=Data().label_feature)
    parser.add_argument("--data_dir", default="", help="where TFDS keeps its data sets")
    parser.add_argument("--out", required=True, help="new folder, or an address like gs://b/photos")
    parser.add_argument("--shard_mb", type=float, default=256, help="size of the files")
    parser.add_argument("--check", action="store_true", help="read the header of each image")
    options = parser.parse_args(arguments)
    if bool(options.tfds) == bool(options.csv) or bool(options.images) != bool(options.csv):
        parser.error("name either --csv and --images, or --tfds")
    if options.shard_mb <= 0:
        parser.error(f"--shard_mb {options.shard_mb:g}: it must be above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
