"""The kinds of weight files, known by their first bytes, and the description beside a file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from mlcls_jax.models.weights.keras_h5 import read_keras
from mlcls_jax.models.weights.torch_pickle import ZIP_MAGIC, read_torch

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


PARALLEL = "module."
SIDECAR = "config.json"  # Hugging Face's name for it


@dataclass(frozen=True)
class Kind:
    """A kind of file: title, endings, how it begins, and its reader."""

    title: str
    suffixes: tuple[str, ...]
    begins: Callable[[bytes], bool]
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
        lambda head: head[8:9] == b"{",  # after eight bytes of the header's length
        read_safetensors,
    ),
)


def find_file(path: Path) -> Path:
    """The path, or the one weight file in it where it is a folder, as Hugging Face has them.

    Raises:
        ValueError: a folder with none or several.
    """
    if not path.is_dir():
        return path
    suffixes = tuple(suffix for kind in KINDS for suffix in kind.suffixes)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{path} is a folder with {len(files)} weight files ({names}); name one")
    return files[0]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a weight file by their names in it.

    Raises:
        ValueError: the file cannot be read, is of no known kind, or of another kind than its name
            says.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); check the path of the weight file, or take "
            "a name that `python -m mlcls_jax.models.pretrained --list` prints"
        ) from error
    if path.suffix.lower() == ".keras" and head.startswith(ZIP_MAGIC):
        raise ValueError(
            f'{path} holds a whole Keras model; save its weights with model.save_weights("x.'
            'weights.h5") and give that file'
        )
    named = next((kind for kind in KINDS if path.suffix.lower() in kind.suffixes), None)
    found = next((kind for kind in KINDS if kind.begins(head)), None)
    if named and found and named is not found:
        raise ValueError(
            f"{path} is named as a {named.title} file but holds {found.title}; rename it to "
            f"{path.stem}{found.suffixes[0]} if that is what it is"
        )
    if kind := named or found:
        return _without_prefix(kind.read(path))
    raise ValueError(
        f"{path} is no weight file of a known kind; give a name that "
        "`python -m mlcls_jax.models.pretrained --list` prints, or a Keras .h5, a .safetensors or "
        "a PyTorch .pth file"
    )


def _without_prefix(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names without the "module." that torch's DataParallel puts before all of them."""
    if tensors and all(name.startswith(PARALLEL) for name in tensors):
        return {name.removeprefix(PARALLEL): tensors[name] for name in tensors}
    return tensors


def read_sidecar(path: Path) -> dict[str, Any]:
    """What the config.json in the folder of a weight file says; {} without one.

    Raises:
        ValueError: it is no JSON object.
    """
    sidecar = path.parent / SIDECAR
    if not sidecar.is_file():
        return {}
    try:
        value = json.loads(sidecar.read_text(encoding="utf-8-sig"))  # Windows marks UTF-8
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{sidecar}, which describes {path.name}, cannot be read: {error}"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{sidecar}, which describes {path.name}, holds no JSON object")
    return value
