"""File formats of weights, recognised by their first bytes, and the config.json next to a file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from mlcls_jax.models.weights.keras_h5 import MAX_TENSORS, read_keras
from mlcls_jax.models.weights.torch_pickle import ZIP_MAGIC, read_torch
from mlcls_jax.system.console import one_line
from mlcls_jax.system.invocation import command

# The library maps the file into memory, and the pages that were read count until it is closed.
TENSORS_PER_OPENING = 64


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors file.

    Returns:
        Arrays by name, in the file's own shapes and axis order (OIHW for convolutions).  bfloat16
        becomes float32, which represents it exactly.

    Raises:
        ValueError: the file does not exist, is not safetensors, is truncated, declares a size that
            it does not hold, or has a dtype that NumPy does not support (float8).
    """
    path, tensors = Path(path), {}
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
        if len(names) > MAX_TENSORS:
            raise ValueError(
                f"{path} has {len(names):,} tensors, more than {MAX_TENSORS:,}; it is not a file "
                "of an EfficientNet"
            )
        for start in range(0, len(names), TENSORS_PER_OPENING):
            with safe_open(path, "numpy") as file:
                for name in names[start : start + TENSORS_PER_OPENING]:
                    tensor = file.get_tensor(name)
                    is_bfloat16 = tensor.dtype == ml_dtypes.bfloat16
                    tensors[name] = tensor.astype(np.float32) if is_bfloat16 else tensor
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); check the path of the weight file"
        ) from error
    except AttributeError as error:  # "module 'numpy' has no attribute 'float8_e4m3fn'"
        raise ValueError(
            f"{path} has a dtype that NumPy does not support; save it as float32"
        ) from error
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a usable safetensors file: {one_line(error)}; download "
            "or copy the file again"
        ) from error
    return tensors


PARALLEL_PREFIX = "module."
SIDECAR = "config.json"  # the name that Hugging Face uses


@dataclass(frozen=True)
class Kind:
    """A file format.

    Attributes:
        title: name in messages.
        suffixes: endings of file names, in lower case.
        matches: whether the first bytes of a file are those of this format.
        read: reads the tensors of a file by name.
    """

    title: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    read: Callable[[Path], dict[str, np.ndarray]]


KINDS = (
    Kind(
        "HDF5",
        (".h5", ".hdf5"),
        lambda head: head.startswith(b"\x89HDF\r\n\x1a\n"),
        read_keras,
    ),
    Kind(
        "PyTorch",
        (".pth", ".pt", ".bin"),
        lambda head: head.startswith((ZIP_MAGIC, b"\x80\x02")),
        read_torch,
    ),
    Kind(
        "safetensors",
        (".safetensors",),
        lambda head: head[8:9] == b"{",  # follows the length of the header in eight bytes
        read_safetensors,
    ),
)


def kind_of(path: Path) -> Kind | None:
    """Returns the format that the name of a file says; None for another name."""
    return next((kind for kind in KINDS if path.suffix.lower() in kind.suffixes), None)


def find_file(path: Path) -> Path:
    """Returns the path or, for a folder such as one from Hugging Face, its only weight file.

    Raises:
        ValueError: the folder has no weight file, or several.
    """
    if not path.is_dir():
        return path
    suffixes = tuple(suffix for kind in KINDS for suffix in kind.suffixes)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(
            f"{path} is a folder with {len(files)} weight files ({names}); give the path of one"
        )
    return files[0]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a weight file, by their names in the file.

    Raises:
        ValueError: the file cannot be read, has no known format, or another one than its name
            suggests.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); check the path of the weight file, or use "
            f"a name that {command('weights')} lists"
        ) from error
    if path.suffix.lower() == ".keras" and head.startswith(ZIP_MAGIC):
        raise ValueError(
            f"{path} holds a whole Keras model, not its weights; call "
            'model.save_weights("x.weights.h5") and use that file'
        )
    named = kind_of(path)
    found = next((kind for kind in KINDS if kind.matches(head)), None)
    if named and found and named is not found:
        raise ValueError(
            f"{path} has the name of a {named.title} file but the content of a {found.title} file; "
            f"rename it to {path.stem}{found.suffixes[0]}, or choose another file"
        )
    if kind := named or found:
        return _without_prefix(kind.read(path))
    raise ValueError(
        f"{path} is not a weight file of a known format; use a Keras .h5, a .safetensors or a "
        f"PyTorch .pth file, or a name that {command('weights')} lists"
    )


def _without_prefix(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes the prefix "module." that torch's DataParallel adds to all names."""
    if tensors and all(name.startswith(PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(PARALLEL_PREFIX): tensors[name] for name in tensors}
    return tensors


def read_sidecar(path: Path) -> dict[str, Any]:
    """Returns the content of the config.json in the folder of a weight file; {} without one.

    Raises:
        ValueError: config.json cannot be read or does not hold a JSON object.
    """
    sidecar = path.parent / SIDECAR
    if not sidecar.is_file():
        return {}
    try:
        value = json.loads(sidecar.read_text(encoding="utf-8-sig"))  # Windows marks UTF-8
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{sidecar}, which describes {path.name}, cannot be read ({error}); correct it or "
            "remove it"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{sidecar}, which describes {path.name}, is not a JSON object; correct it or remove it"
        )
    return value
