"""Reads Pascal VOC folders, and those that other tools write in the same layout.

    VOCdevkit/VOC2007/Annotations/000005.xml      objects, each with a name and maybe `difficult`
    VOCdevkit/VOC2007/JPEGImages/000005.jpg
    VOCdevkit/VOC2007/ImageSets/Main/train.txt    file names without extension; also val.txt, ...

Without ImageSets, all annotations are used and the splits are drawn at random.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from mlcls_jax.data.images.extensions import EXTENSIONS
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.detection import (
    AnnotationPolicy,
    entries,
    known_classes,
    object_labels,
)
from mlcls_jax.data.readers.file_names import make_table
from mlcls_jax.data.readers.listing import names_in
from mlcls_jax.system.console import one_line, quoted
from mlcls_jax.system.remote import asked, file_system_of, is_remote

_ANNOTATIONS, _IMAGES, _LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
_SPLITS = ("train", "val", "test")

# (class name, label) of each object of an image; None for an image without annotation.
Objects = list[tuple[str, int]] | None


def read_voc(
    place: str | Path, policy: AnnotationPolicy, classes: Sequence[str] | None = None
) -> LabelTable:
    """Reads the labels of images from their annotated objects.

    If no image of a list has an annotation, as in VOC2012's test.txt, their labels are unknown.

    Args:
      place: the folder that contains Annotations, for all images with the splits of train.txt,
        val.txt and test.txt, as far as these exist; or one list, such as trainval.txt, for its
        images without splits. Either may be an address in a bucket.
      policy: how difficult objects count.
      classes: all class names; None: the names of the objects found, sorted.

    Returns:
      A LabelTable in the order of the lists.

    Raises:
      ValueError: one line with the file, what is wrong and what to do.
    """
    if is_remote(place):
        return _read_remote(str(place).rstrip("/"), policy, classes)
    place = Path(place).expanduser()
    tree = place.parents[2] if place.suffix == ".txt" and len(place.parents) > 2 else place
    for name in (_ANNOTATIONS, _IMAGES):
        if not (tree / name).is_dir():
            raise ValueError(
                f"{place}: not a VOC data set, because {tree} has no folder {name}; set data.csv "
                f"to the folder that has it (VOCdevkit/VOC2007), or to a list in its {_LISTS}"
            )
    lists = _lists(place, tree)
    objects: list[Objects] = []
    for path, stems in lists:
        objects += _objects_of(path, tree, stems, policy)
    stems = [stem for _, listed in lists for stem in listed]
    found = {name for listed in objects for name, _ in listed or ()}
    names = known_classes(found, classes, f"{place}: has objects of")
    if not names:
        raise ValueError(
            f"{place}: no annotation has an object, so there are no classes; check the files in "
            f"{_ANNOTATIONS}"
        )
    labels = _labels(objects, names)
    files = _files(tree, stems)
    splits = [path.stem for path, listed in lists for _ in listed]
    whole = place == tree and (tree / _LISTS).is_dir()
    return make_table(
        entries(place, "images", files),
        labels,
        names,
        tree / _IMAGES,
        splits=tuple(splits) if whole else None,
    )


def _read_remote(place: str, policy: AnnotationPolicy, classes: Sequence[str] | None) -> LabelTable:
    """Reads a copy that has the lists and annotations, and an empty file for each image."""
    tree = place.rpartition(f"/{_LISTS}/")[0] if place.endswith(".txt") else place
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        try:
            for part in (_ANNOTATIONS, _LISTS, _IMAGES):
                _copy_files(f"{tree}/{part}", copy / part, empty=part == _IMAGES)
        except OSError as error:
            raise ValueError(f"{place} cannot be read: {one_line(error)}") from error
        try:
            table = read_voc(copy / place.removeprefix(tree).lstrip("/"), policy, classes)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), tree)) from error
    return replace(table, folder=f"{tree}/{_IMAGES}")


def _copy_files(address: str, folder: Path, *, empty: bool) -> None:
    """Copies the files of a folder in a bucket, all at once, or makes empty files of their names.

    An empty or missing folder is not made.
    """
    names = sorted(names_in(address))
    contents: dict[str, bytes] = {}
    if names and not empty:
        contents = asked(file_system_of(address).cat, [f"{address}/{name}" for name in names])
    by_name = {name.rpartition("/")[2]: content for name, content in contents.items()}
    for name in names:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(by_name.get(name, b""))


def _labels(objects: list[Objects], classes: tuple[str, ...]) -> np.ndarray:
    index = {name: i for i, name in enumerate(classes)}
    flat = [
        (i, index[name], label) for i, listed in enumerate(objects) for name, label in listed or ()
    ]
    images, columns, values = zip(*flat, strict=True) if flat else ((), (), ())
    labels = object_labels(images, columns, values, (len(objects), len(classes)))
    labels[[listed is None for listed in objects]] = UNKNOWN
    return labels


def _lists(place: Path, tree: Path) -> list[tuple[Path, list[str]]]:
    """The lists, with the file names (without extension) in each."""
    if place != tree:
        return [(place, _read_list(place))]
    files = [tree / _LISTS / f"{split}.txt" for split in _SPLITS]
    found = [(file, _read_list(file)) for file in files if file.is_file()]
    if found:
        return found
    if (tree / _LISTS).is_dir():
        raise ValueError(
            f"{tree}: {_LISTS} has none of train.txt, val.txt and test.txt; set data.csv to the "
            "list to read"
        )
    annotated = sorted(file.stem for file in (tree / _ANNOTATIONS).glob("*.xml"))
    if not annotated:
        raise ValueError(f"{tree}: {_ANNOTATIONS} has no XML files; check data.csv")
    return [(tree / _ANNOTATIONS, annotated)]


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); check the path") from error
    words = [line.split() for line in lines]
    for row, line in enumerate(words, start=1):
        if len(line) > 1:
            raise ValueError(
                f"{path}: line {row} has {len(line)} words, so this is the list of one class; use "
                "train.txt, trainval.txt or another list of images"
            )
    stems = [line[0] for line in words if line]
    if not stems:
        raise ValueError(f"{path}: the list is empty; write one image name per line")
    return stems


def _objects_of(
    path: Path, tree: Path, stems: list[str], policy: AnnotationPolicy
) -> list[Objects]:
    files = [tree / _ANNOTATIONS / f"{stem}.xml" for stem in stems]
    exists = [file.is_file() for file in files]
    if not any(exists):
        return [None for _ in files]
    if not all(exists):
        missing = [file.name for file, found in zip(files, exists, strict=True) if not found]
        raise ValueError(
            f"{path}: {len(missing)} of {len(files)} images have no annotation in "
            f"{tree / _ANNOTATIONS}: {quoted(missing)}; add these files, or remove the images"
        )
    return [_objects(file, policy) for file in files]


def _objects(path: Path, policy: AnnotationPolicy) -> list[tuple[str, int]]:
    """(class name, label) of each annotated object; object parts are ignored."""
    found = []
    for i, node in enumerate(_parse(path).findall("object")):
        name = (node.findtext("name") or "").strip()
        difficult = (node.findtext("difficult") or "0").strip()
        if not name or difficult not in ("0", "1"):
            problem = f"difficult is {difficult!r}, not 0 or 1" if name else "it has no name"
            raise ValueError(f"{path}: object {i + 1}: {problem}; correct it")
        found.append((name, policy.label(difficult=difficult == "1")))
    return found


def _parse(path: Path) -> Element:
    """The root of an XML file; refuses a document type, because it can define entities."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except (OSError, expat.ExpatError, LookupError, ValueError) as error:
        raise ValueError(
            f"{path}: the annotation cannot be read ({error}); correct or replace the file"
        ) from error


def _refuse(name: str, *rest: Any) -> None:
    raise ValueError(f"it declares a document type {name[:40]!r}, which is not allowed")


def _files(tree: Path, stems: list[str]) -> list[str]:
    """File names with extension: .jpg if that file exists, otherwise the one found."""
    names = (entry.name for entry in os.scandir(tree / _IMAGES))
    found = sorted(name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS)
    by_stem = {os.path.splitext(name)[0]: name for name in found}
    present = set(found)
    return [
        name if (name := f"{stem}.jpg") in present else by_stem.get(stem, name) for stem in stems
    ]
