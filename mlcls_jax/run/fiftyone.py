"""Predictions as a labels.json of FiftyOne.

Source of the format: FiftyOne 1.22, the documentation of FiftyOneImageClassificationDataset, with
absolute paths in place of names.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.system.files import write_text
from mlcls_jax.system.remote import is_remote


def classifications(
    paths: Sequence[str], scores: np.ndarray, present: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Returns the predicted classes of each image with their probabilities, JSON-ready.

    Args:
        paths: files of the images.
        scores: float [image, class].
        present: bool [image, class]: the predicted classes.
        classes: their names.

    Raises:
        ValueError: an image is in a bucket, which FiftyOne does not read.
    """
    labels = {}
    for path, probabilities, chosen in zip(paths, scores, present, strict=True):
        if is_remote(path):
            raise ValueError(f"--fiftyone: {path} is in a bucket; FiftyOne reads files of a disk")
        labels[str(Path(path).absolute())] = [
            {"label": classes[int(c)], "confidence": float(probabilities[c])}
            for c in np.flatnonzero(chosen)
        ]
    return {"labels": labels}


def write_classifications(file: Path, content: dict[str, Any]) -> None:
    """Writes the JSON file that FiftyOne imports.

    Raises:
        ValueError: the file cannot be written.
    """
    write_text(file, json.dumps(content, indent=1) + "\n")
