"""The tree of Pascal VOC, and of tools that write it, as a LabelTable.

VOCdevkit/VOC2007/Annotations/000005.xml      objects, each with a name and perhaps `difficult`
VOCdevkit/VOC2007/JPEGImages/000005.jpg
VOCdevkit/VOC2007/ImageSets/Main/train.txt    names without endings; val.txt, test.txt and others

Without ImageSets, every annotation counts and the splits are drawn.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from mlcls_jax.data.images.decoding import EXTENSIONS
from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_cells import quoted
from mlcls_jax.data.readers.csv_labels import make_table
from mlcls_jax.data.readers.detection import AnnotationPolicy, entries, object_labels

_ANNOTATIONS, _IMAGES, _LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
_SPLITS = ("train", "val", "test")

# Of an image the class of each object and what it says; None where nobody has annotated it.
Objects = list[tuple[str, int]] | None


def read_voc(
    place: str | Path, policy: AnnotationPolicy, classes: Sequence[str] | None = None
) -> LabelTable:
    """Reads the annotations of objects.

    A list of which no image has an annotation, as VOC2012's test.txt, is one of images of which
    nothing is known.

    Args:
      place: the folder with Annotations in it, for all images with their splits by train.txt,
        val.txt and test.txt as far as they are there; or another list, such as trainval.txt, for
        its images without splits.
      policy: what difficult objects say.
      classes: all that there are; None: the names of objects that occur, sorted.

    Raises:
      ValueError: one line that names the file, what is wrong and what to do.
    """
    place = Path(place).expanduser()
    tree = place.parents[2] if place.suffix == ".txt" and len(place.parents) > 2 else place
    for name in (_ANNOTATIONS, _IMAGES):
        if not (tree / name).is_dir():
            raise ValueError(
                f"{place}: no tree of VOC, as {tree} has no folder {name}; name the folder that "
                f"has it (VOCdevkit/VOC2007), or a list in its {_LISTS}"
            )
    lists = _lists(place, tree)
    objects: list[Objects] = []
    for path, stems in lists:
        objects += _objects_of(path, tree, stems, policy)
    stems = [stem for _, listed in lists for stem in listed]
    found = sorted({name for listed in objects for name, _ in listed or ()})
    names = tuple(classes or found)
    if foreign := sorted(set(found) - set(names)):
        raise ValueError(f"{place}: objects of {quoted(foreign)}, which are no classes of train")
    if not names:
        raise ValueError(f"{place}: no object in any annotation, so there are no classes")
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


def _labels(objects: list[Objects], classes: tuple[str, ...]) -> np.ndarray:
    index = {name: i for i, name in enumerate(classes)}
    flat = [
        (i, index[name], said) for i, listed in enumerate(objects) for name, said in listed or ()
    ]
    images, columns, says = zip(*flat, strict=True) if flat else ((), (), ())
    labels = object_labels(images, columns, says, (len(objects), len(classes)))
    labels[[listed is None for listed in objects]] = UNKNOWN
    return labels


def _lists(place: Path, tree: Path) -> list[tuple[Path, list[str]]]:
    """Lists, and the names of images in each."""
    if place != tree:
        return [(place, _read_list(place))]
    files = [tree / _LISTS / f"{split}.txt" for split in _SPLITS]
    found = [(file, _read_list(file)) for file in files if file.is_file()]
    if found:
        return found
    if (tree / _LISTS).is_dir():
        raise ValueError(
            f"{tree}: {_LISTS} has none of train.txt, val.txt and test.txt; name the list to read"
        )
    annotated = sorted(file.stem for file in (tree / _ANNOTATIONS).glob("*.xml"))
    if not annotated:
        raise ValueError(f"{tree}: {_ANNOTATIONS} has no XML files")
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
                f"{path}: line {row} has {len(line)} words, so it is a list of one class; name "
                "train.txt, trainval.txt or another list of images"
            )
    stems = [line[0] for line in words if line]
    if not stems:
        raise ValueError(f"{path}: it names no image")
    return stems


def _objects_of(
    path: Path, tree: Path, stems: list[str], policy: AnnotationPolicy
) -> list[Objects]:
    files = [tree / _ANNOTATIONS / f"{stem}.xml" for stem in stems]
    there = [file.is_file() for file in files]
    if not any(there):
        return [None for _ in files]
    if not all(there):
        gone = [file.name for file, known in zip(files, there, strict=True) if not known]
        raise ValueError(
            f"{path}: {len(gone)} of {len(files)} images have no annotation in "
            f"{tree / _ANNOTATIONS}: {quoted(gone)}; add these files, or remove the names"
        )
    return [_objects(file, policy) for file in files]


def _objects(path: Path, policy: AnnotationPolicy) -> list[tuple[str, int]]:
    """Of each object its class and what it says; parts of objects are none."""
    found = []
    for i, node in enumerate(_parse(path).findall("object")):
        name = (node.findtext("name") or "").strip()
        difficult = (node.findtext("difficult") or "0").strip()
        if not name or difficult not in ("0", "1"):
            what = f"difficult is {difficult!r}, neither 0 nor 1" if name else "it has no name"
            raise ValueError(f"{path}: object {i + 1}: {what}; correct it")
        found.append((name, policy.says(difficult=difficult == "1")))
    return found


def _parse(path: Path) -> Element:
    """The root of an XML file without a document type, and hence without entities of its own."""
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
        raise ValueError(f"{path}: no annotation that can be read ({error}); mend it") from error


def _refuse(name: str, *rest: Any) -> None:
    raise ValueError(f"it declares a document type {name[:40]!r}, which annotations do not")


def _files(tree: Path, stems: list[str]) -> list[str]:
    """Names with their endings: .jpg, or what there is."""
    there = (entry.name for entry in os.scandir(tree / _IMAGES))
    found = sorted(name for name in there if os.path.splitext(name)[1].lower() in EXTENSIONS)
    by_stem = {os.path.splitext(name)[0]: name for name in found}
    present = set(found)
    return [
        name if (name := f"{stem}.jpg") in present else by_stem.get(stem, name) for stem in stems
    ]
