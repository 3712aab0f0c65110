"""Reads a safetensors file; the library checks header and sizes before it allocates anything."""

from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

# The library maps the file, and pages that were read count as memory until it is closed.
TENSORS_PER_OPENING = 64


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors by name, in the file's own shapes and axis order (OIHW for convolutions).

    bfloat16 comes as float32, which holds it exactly.

    Raises:
        ValueError: no such file, not safetensors, truncated, a size that the file does not hold,
            or a dtype that NumPy does not have (float8).
    """
    path, tensors = Path(path), {}
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
        for start in range(0, len(names), TENSORS_PER_OPENING):
            with safe_open(path, "numpy") as file:
                for name in names[start : start + TENSORS_PER_OPENING]:
                    tensor = file.get_tensor(name)
                    narrow = tensor.dtype == ml_dtypes.bfloat16
                    tensors[name] = tensor.astype(np.float32) if narrow else tensor
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); check the path of the weight file"
        ) from error
    except AttributeError as error:  # "module 'numpy' has no attribute 'float8_e4m3fn'"
        raise ValueError(f"{path} holds a dtype that NumPy has not; save it as float32") from error
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a usable safetensors file: {' '.join(str(error).split())}; get the "
            "file again"
        ) from error
    return tensors
