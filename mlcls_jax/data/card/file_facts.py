"""What the files of the images tell: duplicates, sizes and modes, and images without content."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from mlcls_jax.data.card.image_look import Look, look, sample_to_look_at
from mlcls_jax.data.card.same_bytes import same_bytes
from mlcls_jax.data.card.stored_files import StoredFiles, stored_files
from mlcls_jax.data.card.timed_map import TimedMap
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.label_table import LabelTable

SECONDS = 15.0  # after which no further file is read

Named = list[str]  # split and file name


@dataclass(frozen=True)
class FileFacts:
    """What the files tell; the same files give the same facts, if they are read in time.

    An image is named by its split and its file name.

    duplicates: groups of images with the same bytes, those of train first.
    contradictions: such groups with different labels: "images", and "classes" that differ.
    images_compared: number of images that duplicates are of; others were not compared.
    images_read: number of images that were decoded; all of the following are of these.
    kinds: number of images by format and mode, such as "JPEG RGB".
    bits: number of images by the bits of a value, such as "8".
    ranges: smallest, median and largest "width" and "height" in pixels, and "bytes" of all files.
    nearly_black: images without a value above BLACK of 255.
    constant: images of one value in each channel.
    unreadable: images that cannot be read, each with the reason.
    """

    duplicates: list[list[Named]]
    contradictions: list[dict[str, list]]
    images_compared: int
    images_read: int
    kinds: dict[str, int]
    bits: dict[str, int]
    ranges: dict[str, list[int]]
    nearly_black: list[Named]
    constant: list[Named]
    unreadable: list[list[str]]

    @property
    def leaks(self) -> list[tuple[Named, Named]]:
        """Pairs of images with the same bytes in different splits, the earlier split first."""
        return [
            (group[0], other)
            for group in self.duplicates
            for other in group[1:]
            if other[0] != group[0][0]
        ]


def file_facts(
    splits: Mapping[str, LabelTable], pixels: PixelFormat, threads: int, seconds: float = SECONDS
) -> FileFacts:
    """Returns what the files of all splits tell.

    Sizes of files are asked for, files of equal sizes are compared, and a sample of the images is
    decoded at a small size. Of images in a bucket, MAX_FAR are read.

    Args:
      splits: the table of each split, train first.
      pixels: see `open_image`.
      threads: number of threads that read.
      seconds: after which no further file is read.
    """
    tables = list(splits.values())
    paths = list(chain.from_iterable(table.paths for table in tables))
    with TimedMap(threads, seconds) as work:
        files = stored_files(paths, work)
        rows = sample_to_look_at(files)
        seen = work.over(lambda row: look(paths[row], pixels), rows)
        groups, compared = same_bytes(files, work)
    found = {row: one for row, one in sorted(zip(rows, seen, strict=True)) if one is not None}
    looks = {row: one for row, one in found.items() if isinstance(one, Look)}
    name = _names(splits)
    return FileFacts(
        duplicates=[list(map(name, group)) for group in groups],
        contradictions=_contradictions(tables, groups, name),
        images_compared=compared,
        images_read=len(found),
        kinds=_counted(one.kind for one in looks.values()),
        bits=_counted(str(one.bits) for one in looks.values()),
        ranges=_ranges(files, looks.values()),
        nearly_black=[name(row) for row, one in looks.items() if one.blank == "nearly black"],
        constant=[name(row) for row, one in looks.items() if one.blank == "constant"],
        unreadable=[[*name(row), one] for row, one in found.items() if isinstance(one, str)],
    )


def _names(splits: Mapping[str, LabelTable]) -> Callable[[int], Named]:
    """A function from the row of an image among those of all splits to its split and name."""
    ends, tables = np.cumsum([len(table) for table in splits.values()]), list(splits.items())

    def name(row: int) -> Named:
        number = int(np.searchsorted(ends, row, side="right"))
        split, table = tables[number]
        return [split, table.filenames[row - int(ends[number]) + len(table)]]

    return name


def _contradictions(
    tables: Sequence[LabelTable], groups: Sequence[Sequence[int]], name: Callable[[int], Named]
) -> list[dict[str, list]]:
    if not groups:
        return []
    labels = np.concatenate([table.labels for table in tables])
    found = []
    for group in groups:
        given = labels[list(group)]
        differ = np.flatnonzero((given == 1).any(axis=0) & (given == 0).any(axis=0))
        if len(differ):
            classes = [tables[0].classes[c] for c in differ]
            found.append({"images": list(map(name, group)), "classes": classes})
    return found


def _counted(values: Iterable[str]) -> dict[str, int]:
    """The number of times of each value, the most frequent first."""
    return dict(Counter(values).most_common())


def _ranges(files: StoredFiles, looks: Iterable[Look]) -> dict[str, list[int]]:
    looks = list(looks)
    values = {
        "width": [one.width for one in looks],
        "height": [one.height for one in looks],
        "bytes": [size for size in files.sizes if size >= 0],
    }
    ordered = {name: sorted(found) for name, found in values.items() if found}
    return {name: [of[0], of[len(of) // 2], of[-1]] for name, of in ordered.items()}
