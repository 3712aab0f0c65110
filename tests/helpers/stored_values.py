"""The values of other implementations in tests/reference, made by scripts/reference."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "reference"


@functools.cache
def stored(name: str) -> Mapping[str, np.ndarray]:
    """Returns the arrays of a file by name."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}
