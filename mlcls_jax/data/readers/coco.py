"""Reads COCO's instances_*.json, and files of the same format from other tools.

A class is present on an image if the image has an annotation of it, and absent otherwise, so every
class is absent on an image without annotations. A file without a list of annotations, such as
image_info_test*.json, gives unknown labels.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_files import local_copy
from mlcls_jax.data.readers.detection import AnnotationPolicy, entries, object_labels
from mlcls_jax.data.readers.file_names import check_folder, make_table
from mlcls_jax.data.readers.json_files import read_json
from mlcls_jax.system.console import quoted
from mlcls_jax.system.remote import is_remote

_HEAVY = ("segmentation", "keypoints", "caption")


def read_coco(path: str | Path, images: str | Path, policy: AnnotationPolicy) -> LabelTable:
    """Reads the labels of images from their annotated objects.

    Args:
      path: the JSON file, or its address.
      images: the image folder, which each `file_name` is relative to, or its address.
      policy: how crowds and small objects count.

    Returns:
      A LabelTable with images and classes in the order of the file's images and categories.

    Raises:
      ValueError: one line with the file and the entry, what is wrong and what to do.
    """
    if is_remote(path):
        with local_copy(str(path)) as copy:
            return read_coco(copy, images, policy)
    path, folder = Path(path).expanduser(), images
    if not is_remote(images):
        folder = Path(images).expanduser()
    check_folder(folder)
    content = _read_content(path)
    listed = _list(path, content, "images")
    categories = _list(path, content, "categories")
    names = [_field(path, "images", i, entry, "file_name", str) for i, entry in enumerate(listed)]
    index = _index(path, "images", listed)
    classes = tuple(
        _field(path, "categories", i, entry, "name", str) for i, entry in enumerate(categories)
    )
    if twice := [name for name in set(classes) if classes.count(name) > 1]:
        raise ValueError(
            f"{path}: several categories have the name {quoted(sorted(twice))}; rename all but one"
        )
    shape = (len(names), len(classes))
    if "annotations" in content:
        columns = _index(path, "categories", categories)
        labels = _labels(path, _list(path, content, "annotations"), index, columns, policy, shape)
    else:
        labels = np.full(shape, UNKNOWN, np.int8)
    return make_table(entries(path, "images", names), labels, classes, folder)


def _labels(
    path: Path, annotations: list, images: dict, categories: dict, policy: AnnotationPolicy, shape
) -> np.ndarray:
    places: dict[str, dict] = {"image_id": images, "category_id": categories}
    found: dict[str, list[int]] = {key: [] for key in places}
    values = []
    for i, entry in enumerate(annotations):
        for key, index in places.items():
            number = _field(path, "annotations", i, entry, key, int | str)
            if number not in index:
                owner = "images" if key == "image_id" else "categories"
                raise ValueError(
                    f"{path}: annotations[{i}]: {key} {number!r} is not in the file's {owner}; "
                    "remove the annotation, or add the missing entry"
                )
            found[key].append(index[number])
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(f"{path}: annotations[{i}]: iscrowd is {crowd!r}; it must be 0 or 1")
        area = _area(path, i, entry) if policy.min_area else np.inf
        values.append(policy.label(crowd=bool(crowd), area=area))
    return object_labels(found["image_id"], found["category_id"], values, shape)


def _area(path: Path, i: int, entry: dict) -> float:
    """The object's area in square pixels if the file has it, otherwise that of its box."""
    try:
        if entry.get("area") is not None:
            return float(entry["area"])
        _, _, width, height = entry["bbox"]
        return float(width) * float(height)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}: annotations[{i}] has neither area nor bbox as numbers, which data.min_area "
            "needs; add one of them, or set data.min_area=0"
        ) from error


def _read_content(path: Path) -> dict[str, Any]:
    needs = "data.source='coco' needs an instances_*.json file"
    content = read_json(path, needs, _lighter)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: contains a {type(content).__name__}, not an object with images, annotations "
            f"and categories; {needs}"
        )
    return content


def _lighter(entry: dict) -> dict:
    """Drops outlines while reading: they are nine tenths of a file."""
    for key in _HEAVY:
        entry.pop(key, None)
    return entry


def _list(path: Path, content: dict, key: str) -> list:
    value = content.get(key)
    if not isinstance(value, list) or (not value and key != "annotations"):
        raise ValueError(
            f"{path}: no list {key!r} with entries among {quoted(content)}; data.source='coco' "
            "needs an instances_*.json file"
        )
    return value


def _index(path: Path, owner: str, listed: list) -> dict[int | str, int]:
    """Positions in the list by id."""
    index: dict[int | str, int] = {}
    for i, entry in enumerate(listed):
        number = _field(path, owner, i, entry, "id", int | str)
        if index.setdefault(number, i) != i:
            raise ValueError(
                f"{path}: {owner}[{index[number]}] and {owner}[{i}] have the same id {number!r}; "
                "remove or renumber one"
            )
    return index


def _field(path: Path, owner: str, i: int, entry: Any, key: str, kind: Any) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(
            f"{path}: {owner}[{i}]: {key} is {str(value)[:80]!r}; it must be "
            f"{'text' if kind is str else 'an integer or text'}"
        )
    return value
