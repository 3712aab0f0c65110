"""Reads a safetensors file; the library checks header and sizes before it allocates anything."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

# The library maps the file, and pages that were read count as memory until it is closed.
TENSORS_PER_OPENING = 64


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors by name, in the file's own shapes and axis order (OIHW for convolutions).

    Raises:
        ValueError: no such file, not safetensors, truncated, a size that the file does not hold,
            or a dtype that NumPy does not have (bfloat16, float8).
    """
    path, tensors = Path(path), {}
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
        for start in range(0, len(names), TENSORS_PER_OPENING):
            with safe_open(path, "numpy") as file:
                for name in names[start : start + TENSORS_PER_OPENING]:
                    dtype = file.get_slice(name).get_dtype()
                    if dtype.startswith(("BF", "F8", "F4")):
                        raise ValueError(f"{name} is {dtype}; save it as float32")
                    tensors[name] = file.get_tensor(name)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); check the path of the weight file"
        ) from error
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is not a usable safetensors file: {error}; get the file again"
        ) from error
    return tensors
