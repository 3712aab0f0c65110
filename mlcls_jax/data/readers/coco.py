"""COCO's instances_*.json, and what other tools write in its form, as a LabelTable.

A class is present on an image that has an annotation of it, absent where there is none: of an
image without any annotation, all are.  An image_info_test*.json has no annotations at all, so
nothing is known of its images.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_cells import quoted
from mlcls_jax.data.readers.csv_labels import check_folder, make_table
from mlcls_jax.data.readers.detection import AnnotationPolicy, entries, object_labels

# Bytes.  The largest of the known sets, Objects365, is a file of 6 GB; reading takes twice as much.
MOST = 16 * 2**30
_HEAVY = ("segmentation", "keypoints", "caption")


def read_coco(path: str | Path, images: str | Path, policy: AnnotationPolicy) -> LabelTable:
    """Reads the annotations of objects.

    Args:
      path: the JSON file.
      images: the folder that the `file_name`s start from.
      policy: what crowds and small objects say.

    Returns:
      A LabelTable in the order of the file's images, with its categories in their order.

    Raises:
      ValueError: one line that names the file, the entry, what is wrong and what to do.
    """
    path, folder = Path(path).expanduser(), Path(images).expanduser()
    check_folder(folder)
    content = _read_json(path)
    listed = _list(path, content, "images")
    categories = _list(path, content, "categories")
    names = [_field(path, "images", i, entry, "file_name", str) for i, entry in enumerate(listed)]
    index = _index(path, "images", listed)
    classes = tuple(
        _field(path, "categories", i, entry, "name", str) for i, entry in enumerate(categories)
    )
    if twice := [name for name in set(classes) if classes.count(name) > 1]:
        raise ValueError(f"{path}: categories of the same name {quoted(sorted(twice))}; rename one")
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
    says = []
    for i, entry in enumerate(annotations):
        for key, index in places.items():
            number = _field(path, "annotations", i, entry, key, int | str)
            if number not in index:
                what = "image" if key == "image_id" else "category"
                raise ValueError(
                    f"{path}: annotations[{i}]: its {key} {number!r} is no {what} of the file; "
                    "remove it, or add what it belongs to"
                )
            found[key].append(index[number])
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(f"{path}: annotations[{i}]: iscrowd is {crowd!r}; it must be 0 or 1")
        area = _area(path, i, entry) if policy.min_area else np.inf
        says.append(policy.says(crowd=bool(crowd), area=area))
    return object_labels(found["image_id"], found["category_id"], says, shape)


def _area(path: Path, i: int, entry: dict) -> float:
    """In square pixels: of the object where the file says it, or else of its box."""
    try:
        if entry.get("area") is not None:
            return float(entry["area"])
        _, _, width, height = entry["bbox"]
        return float(width) * float(height)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}: annotations[{i}] has neither area nor bbox, which data.min_area needs; set "
            "that to 0, or add them"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if size > MOST:
        raise ValueError(
            f"{path}: it has {size / 2**30:.0f} GB, more than {MOST / 2**30:.0f}; split it"
        )
    try:
        with open(path, "rb") as file:
            content = json.load(file, object_hook=_lighter)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: no JSON ({error}); data.source='coco' needs an instances_*.json, whole"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: a {type(content).__name__}, not an object with images, annotations and "
            "categories; data.source='coco' needs an instances_*.json"
        )
    return content


def _lighter(entry: dict) -> dict:
    """Outlines are nine tenths of a file, and gone before the next entry is read."""
    for key in _HEAVY:
        entry.pop(key, None)
    return entry


def _list(path: Path, content: dict, key: str) -> list:
    value = content.get(key)
    if not isinstance(value, list) or (not value and key != "annotations"):
        raise ValueError(
            f"{path}: no list {key!r} with entries beside {quoted(content)}; data.source='coco' "
            "needs an instances_*.json"
        )
    return value


def _index(path: Path, owner: str, listed: list) -> dict[int | str, int]:
    """Places in the list by id."""
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
