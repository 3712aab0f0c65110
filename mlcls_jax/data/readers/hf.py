"""Reads data sets of Hugging Face `datasets`: Parquet files, saved folders, and names of the hub.

Labels go through the reader of CSVs. Images of Arrow files, which are not compressed, are read
where they lie. Parquet gives no access to a single image, so its images are copied once to one file
of the cache folder, as `datasets` itself does. They are never all in memory.
"""

import hashlib
import importlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlcls_jax.data.images.extensions import extension_of
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.cells import Column, CsvCells
from mlcls_jax.data.readers.csv_labels import table_of
from mlcls_jax.data.readers.csv_options import CsvOptions
from mlcls_jax.data.readers.csv_values import SPLIT_NAMES
from mlcls_jax.data.readers.listing import names_below
from mlcls_jax.data.readers.storage import Part
from mlcls_jax.system.console import one_line, quoted
from mlcls_jax.system.files import cache_folder, replacing


@dataclass(frozen=True)
class _File:
    """A Parquet or an Arrow file of a split; split: "" if its name tells none."""

    path: str
    split: str


def read_hf(
    place: str, image: str, choice: CsvOptions, classes: Sequence[str] | None, unlabelled: bool
) -> LabelTable:
    """Reads a data set with a column of images and labels in one column, or one column per class.

    Labels are a ClassLabel, a list of them or of strings, or 0 and 1 (or soft labels) per class.

    Args:
      place: a Parquet or Arrow file, a folder of them, such as that of `save_to_disk`, or the name
        of a data set of the hub.
      image: the column of images.
      choice: as for a CSV; its file names are made here.
      classes, unlabelled: as in `read_labels`.

    Returns:
      A LabelTable with file names such as train/00000017.jpg, and with splits if the names of the
      files tell them.

    Raises:
      ValueError: a package is missing, there are no such files or columns, or `choice` does not
        decide which columns hold labels.
    """
    names: list[str] = []
    texts: dict[str, list[str]] = {}
    sources: dict[str, str] = {}
    known: dict[str, list[str]] = {}
    files = _files(place)
    for file in files:
        columns, images, features = _contents(place, file, image)
        for part in images:
            name = f"{file.split}/" if file.split else ""
            name += f"{len(names):08d}{Path(part).suffix or '.jpg'}"
            sources[name] = part
            names.append(name)
        for name, cells in columns.items():
            texts.setdefault(name, []).extend(cells)
        known |= features
    if any(file.split for file in files):
        texts["split"] = [SPLIT_NAMES.get(name.split("/")[0], "") for name in names]
    if wrong := [name for name, cells in texts.items() if len(cells) != len(names)]:
        raise ValueError(f"{place}: not all of its files have the columns {quoted(wrong)}")
    columns = {
        name: _column(place, name, cells) for name, cells in {"filename": names, **texts}.items()
    }
    if not choice.label_column and not choice.label_columns and len(known) == 1:
        choice = replace(choice, label_column=next(iter(known)))
    classes = classes or known.get(choice.label_column) or None
    return table_of(CsvCells(place, columns), place, choice, None, classes, unlabelled, sources)


def _column(place: str, name: str, texts: list[str]) -> Column:
    codes, distinct = pd.factorize(np.array(texts, object))
    return Column(place, name, np.arange(1, len(texts) + 1), codes, tuple(distinct))


def _files(place: str) -> list[_File]:
    path = Path(place).expanduser()
    if path.is_file():
        return [_File(str(path), "")]
    if not path.is_dir():
        return _hub_files(place)
    names = [
        name for name in sorted(names_below(str(path))) if name.endswith((".parquet", ".arrow"))
    ]
    names = [name for name in names if not Path(name).name.startswith("cache-")]
    if not names:
        raise ValueError(f"{place}: contains no .parquet or .arrow files; check data.csv")
    found = []
    for name in names:
        words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_NAMES]
        found.append(_File(str(path / name), SPLIT_NAMES[words[0]] if words else ""))
    return found


def _hub_files(place: str) -> list[_File]:
    datasets: Any = _package("datasets", "a data set of the hub")
    try:
        splits = datasets.load_dataset(place)
    except Exception as error:  # the package raises the errors of all libraries that it uses
        raise ValueError(
            f"{place} is no file or folder here, and datasets cannot load it: "
            f"{one_line(error, limit=300)}"
        ) from error
    return [
        _File(file["filename"], SPLIT_NAMES.get(split, ""))
        for split, data in splits.items()
        for file in data.cache_files
    ]


def _package(name: str, purpose: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{purpose} needs another package ({one_line(error)}); install mlcls_jax[hf]"
        ) from error


def _contents(
    place: str, file: _File, image: str
) -> tuple[dict[str, list[str]], list[str], dict[str, list[str]]]:
    """The cells of each column; the place of each image; the class names of columns of labels."""
    pa = _package("pyarrow", "data.source='hf'")
    try:
        if file.path.endswith(".parquet"):
            parquet = _package("pyarrow.parquet", "data.source='hf'").ParquetFile(file.path)
            schema, mapped = parquet.schema_arrow, None
            others = [name for name in schema.names if name != image]
            table: Any = parquet.read(columns=others)
        else:
            mapped, parquet = pa.memory_map(file.path), None
            table = pa.ipc.open_stream(mapped).read_all()
            schema, others = table.schema, [name for name in table.schema.names if name != image]
        if image not in schema.names:
            raise ValueError(
                f"{file.path}: no column {image!r}, only {quoted(schema.names)}; set "
                "data.image_feature to the column of images"
            )
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = features.get("info", {}).get("features", {})
        images = (
            _copied(parquet, file.path, image)
            if mapped is None
            else _in_place(table, mapped, file.path, image)
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file.path} cannot be read: {one_line(error, limit=300)}") from error
    cells, known = {}, {}
    for name in others:
        labels = _class_names(features.get(name))
        texts = [_text(value, labels) for value in table.column(name).to_pylist()]
        cells[name] = texts
        if labels:
            known[name] = labels
    return cells, images, known


def _class_names(feature: Any) -> list[str]:
    """The names of a ClassLabel, or of a list of them."""
    if isinstance(feature, list):
        return _class_names(feature[0]) if feature else []
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        return list(feature.get("names") or [])
    return _class_names(feature.get("feature"))


def _text(value: Any, labels: list[str]) -> str:
    """A value as the cell of a CSV."""
    if labels:
        values = value if isinstance(value, list) else [value]
        return json.dumps([labels[i] for i in values if i is not None and i >= 0])
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _in_place(table: Any, mapped: Any, path: str, image: str) -> list[str]:
    """The images of an Arrow file, at their offsets in it."""
    places: list[str] = []
    mapped.seek(0)
    start = mapped.read_buffer().address
    for chunk in table.column(image).chunks:
        contents, paths = chunk.field("bytes"), chunk.field("path").to_pylist()
        wide = "large" in str(contents.type)
        buffers = contents.buffers()
        bounds = np.frombuffer(buffers[1], np.int64 if wide else np.int32)
        bounds = bounds[contents.offset : contents.offset + len(contents) + 1].tolist()
        first = buffers[2].address - start if buffers[2] is not None else 0
        is_there = contents.is_valid().to_pylist()
        for i, (low, high) in enumerate(pairwise(bounds)):
            places.append(
                _part(path, len(places), path, first + low, high - low, paths[i])
                if is_there[i]
                else _file_of(path, paths[i], len(places))
            )
    return places


def _copied(parquet: Any, path: str, image: str) -> list[str]:
    """The images of a Parquet file, in a file of the cache folder."""
    status = os.stat(path)
    key = f"{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns} {image}"
    copy = cache_folder() / "hf" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.images"
    index = copy.with_suffix(".json")
    if not (copy.is_file() and index.is_file()):
        copy.parent.mkdir(parents=True, exist_ok=True)
        rows: list[tuple[int, str | None]] = []
        with replacing(copy) as partial, open(partial, "wb") as file:
            for contents, name in _rows(parquet, image):
                rows.append((-1 if contents is None else file.write(contents), name))
        with replacing(index) as partial:
            partial.write_text(json.dumps(rows), encoding="utf-8")
    offset, places = 0, []
    for i, (size, name) in enumerate(json.loads(index.read_text("utf-8"))):
        if size < 0:
            places.append(_file_of(path, name, i))
        else:
            places.append(_part(path, i, str(copy), offset, size, name))
            offset += size
    return places


def _rows(parquet: Any, image: str) -> Iterator[tuple[bytes | None, str | None]]:
    for batch in parquet.iter_batches(batch_size=64, columns=[image]):
        for value in batch.column(0).to_pylist():
            if isinstance(value, bytes):
                yield value, None
            else:
                yield (value or {}).get("bytes"), (value or {}).get("path")


def _part(path: str, row: int, shard: str, offset: int, size: int, name: str | None) -> Part:
    extension = name.rpartition(".")[2] if name and "." in name else ""
    if not extension:
        with open(shard, "rb") as file:
            file.seek(offset)
            extension = extension_of(file.read(min(size, 64)))
    return Part(f"{path}/{row:08d}.{extension}", shard, offset, size)


def _file_of(path: str, name: str | None, row: int) -> str:
    if not name:
        raise ValueError(f"{path}: row {row + 1} has no image; remove it")
    return name if os.path.isabs(name) else os.path.join(os.path.dirname(path), name)
