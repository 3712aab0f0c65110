"""Reads what people have annotated in Label Studio, exported as JSON.

A class is present if it was chosen and absent if it was not. An image that nobody has annotated, or
whose annotations were cancelled, has unknown labels; so has a class about which its annotators
disagree.

Source of the format: Label Studio, "Export annotations", raw JSON format of completed tasks, and
the tag Choices.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from mlcls_jax.data.label_table import UNKNOWN, LabelTable
from mlcls_jax.data.readers.csv_files import local_copy
from mlcls_jax.data.readers.detection import entries, known_classes
from mlcls_jax.data.readers.file_names import check_folder, make_table
from mlcls_jax.data.readers.json_files import chosen_name, read_json
from mlcls_jax.system.console import quoted
from mlcls_jax.system.remote import is_remote

_NEEDS = "data.source='label_studio' needs an export of Label Studio in the format JSON"
_LOCAL, _UPLOAD = "/data/local-files/", "/data/upload/"  # addresses of Label Studio's own server
_FILENAME = "filename"  # in the data of tasks that `predict --label-studio` has written

Chosen = list[set[str]]  # the classes that each annotation of an image has chosen


def read_label_studio(
    path: str | Path,
    images: str | Path,
    tag: str = "",
    key: str = "image",
    classes: Sequence[str] | None = None,
) -> LabelTable:
    """Reads the choices of an export.

    Args:
      path: the JSON file, or its address.
      images: the image folder, or its address.
      tag: name of the tag Choices; "": the only one.
      key: of the data of a task that holds the image, such as "image" for value="$image".
      classes: all class names; None: those that were chosen, sorted.

    Returns:
      A LabelTable in the order of the tasks.

    Raises:
      ValueError: one line with the file and the task, what is wrong and what to do.
    """
    if is_remote(path):
        with local_copy(str(path)) as copy:
            return read_label_studio(copy, images, tag, key, classes)
    path = Path(path).expanduser()
    folder = images if is_remote(images) else Path(images).expanduser()
    check_folder(folder)
    listed = _tasks(path)
    names = [_name(path, i, task, key, folder) for i, task in enumerate(listed)]
    tag = _tag(path, listed, tag)
    chosen = [_chosen(task, tag) for task in listed]
    found = set().union(*(names for one in chosen for names in one))
    columns = known_classes(found, classes, f"{path}: has the choices")
    labels = np.array([_labels(one, columns) for one in chosen], np.int8)
    return make_table(entries(path, "tasks", names), labels, columns, folder)


def _tasks(path: Path) -> list[dict[str, Any]]:
    content = read_json(path, _NEEDS)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}: is no list of tasks; {_NEEDS}")
    for i, task in enumerate(content):
        if not (
            isinstance(task, dict)
            and isinstance(task.get("data"), dict)
            and isinstance(task.get("annotations"), list)
            and all(isinstance(one, dict) for one in task["annotations"])
        ):
            raise ValueError(
                f"{path}: tasks[{i}] has no data and annotations; {_NEEDS}, not JSON-MIN"
            )
    return content


def _name(path: Path, i: int, task: dict[str, Any], key: str, folder: str | Path) -> str:
    """Returns the file name of a task, as far as it can be told from its address."""
    data = task["data"]
    if isinstance(data.get(_FILENAME), str):
        return data[_FILENAME]
    address = data.get(key)
    if not isinstance(address, str):
        raise ValueError(
            f"{path}: tasks[{i}]: its data has no image {key!r}, only {quoted(data)}; set "
            "data.image_feature to the key of the image"
        )
    parts = urlsplit(address)
    if parts.path == _LOCAL:
        place = parse_qs(parts.query).get("d", [""])[0]
        return place if os.path.exists(os.path.join(folder, place)) else f"/{place}"
    if parts.path.startswith(_UPLOAD) or parts.scheme in ("http", "https"):
        return unquote(parts.path.rpartition("/")[2])
    return address


def _tag(path: Path, listed: list[dict[str, Any]], tag: str) -> str:
    """Returns the name of the tag Choices that is read."""
    results = [one for task in listed for part in task["annotations"] for one in _results(part)]
    tags = {str(one.get("from_name")) for one in results}
    if not tags:
        raise ValueError(f"{path}: no task has an annotation with choices; label some first")
    return chosen_name(path, tags, tag, "choices of the tags")


def _results(annotation: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the results of an annotation that are choices; none if it was cancelled."""
    if annotation.get("was_cancelled"):
        return []
    results = annotation.get("result") or []
    return [one for one in results if isinstance(one, dict) and one.get("type") == "choices"]


def _chosen(task: dict[str, Any], tag: str) -> Chosen:
    return [
        {
            str(name)
            for one in _results(part)
            if one.get("from_name") == tag
            for name in one.get("value", {}).get("choices", ())
        }
        for part in task["annotations"]
        if not part.get("was_cancelled")
    ]


def _labels(chosen: Chosen, classes: Sequence[str]) -> list[int]:
    """Returns the labels of an image, UNKNOWN where its annotations disagree or it has none."""
    if not chosen:
        return [UNKNOWN] * len(classes)
    votes = [sum(name in names for names in chosen) for name in classes]
    return [{0: 0, len(chosen): 1}.get(count, UNKNOWN) for count in votes]
