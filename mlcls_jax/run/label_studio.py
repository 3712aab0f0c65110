"""Tasks for Label Studio with predictions as pre-annotations.

Source of the format: Label Studio, "Import pre-annotated data into Label Studio", for the tag
Choices with choice="multiple".
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from mlcls_jax import __version__
from mlcls_jax.system.files import write_text
from mlcls_jax.system.remote import is_remote

FROM, TO = "classes", "image"  # names of the tags in the labelling interface


def tasks(
    names: Sequence[str],
    paths: Sequence[str],
    present: np.ndarray,
    certainties: np.ndarray,
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Returns a task for each image.

    Args:
        names: file names of the images.
        paths: their paths or addresses.  Label Studio reads a file of its machine below
            LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/.
        present: bool [image, class]: the predicted classes.
        certainties: float [image], the score of each prediction, by which Label Studio orders.
        classes: their names.
    """
    return [
        {
            "data": {TO: _address(path), "filename": name},
            "predictions": [
                {
                    "model_version": f"mlcls_jax {__version__}",
                    "score": float(score),
                    "result": _choices([classes[int(c)] for c in np.flatnonzero(chosen)]),
                }
            ],
        }
        for name, path, chosen, score in zip(names, paths, present, certainties, strict=True)
    ]


def _choices(chosen: list[str]) -> list[dict[str, Any]]:
    """Returns the regions of a prediction: one with all classes, or none without a class."""
    if not chosen:
        return []
    return [{"from_name": FROM, "to_name": TO, "type": "choices", "value": {"choices": chosen}}]


def write_tasks(file: Path, entries: list[dict[str, Any]]) -> None:
    """Writes tasks as the JSON file that Label Studio imports.

    Raises:
        ValueError: the file cannot be written.
    """
    write_text(file, json.dumps(entries, indent=1) + "\n")


def _address(path: str) -> str:
    if is_remote(path):
        return path
    return f"/data/local-files/?d={quote(str(Path(path).absolute()).lstrip('/'))}"
