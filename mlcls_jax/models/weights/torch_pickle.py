"""Reads the tensors of a PyTorch `.pth` file into NumPy arrays, without torch.

Both formats of `torch.save` are pickles that refer to raw storages by key: the zip archive of
torch >= 1.6 (`NAME/data.pkl` and `NAME/data/KEY`) and the older stream (three header pickles, the
main pickle, the list of keys, then for each key an int64 count and its raw values).  Source:
`torch/serialization.py`.

A pickle can name any function of Python and have it called.  The unpickler here imports nothing:
the few names that a state dict needs are mapped to inert stand-ins, and every other name is
refused.  Every size that a file declares is compared with the bytes that exist before it is used,
so a small file cannot allocate much memory.  Each storage is read separately, so memory holds no
more than the tensors.
"""

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from mlcls_jax.models.weights.pickle_guard import check_opcodes
from mlcls_jax.system.console import one_line

ZIP_MAGIC = b"PK\x03\x04"
STREAM_MAGIC = 0x1950A86A20F9469CFC6C
STREAM_PROTOCOL = 1001
MAX_DIMENSIONS = 64  # NumPy's limit; multiplying a million sizes would take hours
STORAGE_DTYPES: dict[str, Any] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
    "BFloat16Storage": ml_dtypes.bfloat16,
}


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict: a dictionary from names to tensors, saved by `torch.save`.

    If a dictionary contains exactly one state dict, as training checkpoints do, that one is read.

    Args:
        path: a `.pth` file, zip archive or older stream, little endian.

    Returns:
        Arrays by name, in the file's own dtypes, shapes and axis order (OIHW for convolutions).
        The arrays are read-only, with the file's own strides.

    Raises:
        ValueError: the file does not exist, is truncated or damaged, or is not a state dict; or its
            pickle uses a global that a tensor does not need (which is not executed).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            file.seek(0)
            size = path.stat().st_size
            return _read_zip(file, size) if is_zip else _read_stream(file, size)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); check the path of the weight file"
        ) from error
    except Exception as error:  # A damaged pickle or archive raises almost any built-in exception.
        reason = one_line(error)
        raise ValueError(
            f"{path} is not a usable PyTorch state dict: {reason}; download or copy the file "
            "again, or save only the state dict: torch.save(model.state_dict(), …)"
        ) from error


class _Storage(NamedTuple):
    """Reference to `size` values under `key`; immutable, so a pickle cannot alter it."""

    dtype: Any
    key: str
    size: int


class _Tensor(NamedTuple):
    """Strided window of a storage as declared by the pickle, not yet checked."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _StorageType(NamedTuple):
    """Stand-in for `torch.FloatStorage` and the like."""

    dtype: Any


class _TensorsOnly(pickle.Unpickler):
    """Unpickler that admits dictionaries, plain values and tensors, and refuses other globals."""

    def __init__(self, contents: bytes):
        super().__init__(io.BytesIO(contents), encoding="utf-8")
        self._admitted = _stand_ins(len(contents))

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self._admitted[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it uses the global {module_name}.{global_name}, which a tensor does not need and "
                "which was not executed"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        # ("storage", type, key, device, count); the stream format adds a view, which is unused now.
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise pickle.UnpicklingError(f"unknown persistent id, {_short(pid)}")
        if len(pid) == 6 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage is a view of another one, from torch < 0.4")
        _, kind, key, _, count = pid[:5]
        if not isinstance(kind, _StorageType) or not isinstance(key, str) or not _is_count(count):
            raise pickle.UnpicklingError(
                f"malformed storage {_short(key)} of {_short(count)} values"
            )
        return _Storage(kind.dtype, key, count)


def _stand_ins(size: int) -> dict[tuple[str, str], Any]:
    """Returns new stand-ins for the admitted globals, because a pickle may set their attributes.

    Args:
        size: bytes of the pickle, more than it has items of dictionaries.
    """
    items = 0

    def tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None):
        return _Tensor(storage, offset, shape, strides)

    def parameter(tensor, requires_grad=False, hooks=None):
        return tensor

    def ordered(pairs=()):
        # Python 2 pickled an OrderedDict as a call with its items.  One list of them may be in many
        # calls.
        nonlocal items
        items += len(pairs)
        if items > size:
            raise pickle.UnpicklingError("its dictionaries hold more items than the file has bytes")
        if not all(isinstance(key, str) for key, _ in pairs):
            raise pickle.UnpicklingError("a key of a dictionary is not a string")
        return OrderedDict(pairs)

    storages = {("torch", name): _StorageType(dtype) for name, dtype in STORAGE_DTYPES.items()}
    return storages | {
        ("collections", "OrderedDict"): ordered,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _short(value: Any) -> str:
    """Returns a value for messages: plain values as they are, other values as their type."""
    is_plain = value is None or isinstance(value, str | int | float | bytes)
    return f"{value!r:.80}" if is_plain else f"a {type(value).__name__}"


def _load_pickle(file: IO[bytes], size: int) -> Any:
    """Reads the next pickle of the file; raises almost any exception if it is damaged."""
    start = file.tell()
    check_opcodes(file, size)
    end = file.tell()
    file.seek(start)
    # From memory, because the unpickler buffers a file and reads past the end of the pickle.
    value = _TensorsOnly(file.read(end - start)).load()
    file.seek(end)
    return value


def _read_stream(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    if _load_pickle(file, size) != STREAM_MAGIC:
        raise ValueError("it does not begin as a PyTorch file")
    if (protocol := _load_pickle(file, size)) != STREAM_PROTOCOL:
        raise ValueError(f"unknown protocol {_short(protocol)}")
    system = _load_pickle(file, size)
    if not isinstance(system, dict) or not system.get("little_endian"):
        raise ValueError("it was written on a big-endian machine")
    content = _load_pickle(file, size)
    tensors = _state_dict(content)
    used = {tensor.storage.key for tensor in tensors.values()}
    keys = _load_pickle(file, size)
    if not isinstance(keys, list):
        raise ValueError("its list of storages is missing")
    # The stream gives only counts, so the item sizes come from the tensors that use the storages.
    storages = {storage.key: storage for storage in _storages(content)}
    values = {}
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise ValueError(f"no tensor uses its storage {_short(key)}")
        (count,) = struct.unpack("<q", file.read(8))
        storage = storages[key]
        if count != storage.size:
            raise ValueError(f"storage {key} has {count} values, expected {storage.size}")
        if key in used:
            values[key] = _read_storage(file, storage, size - file.tell())
        else:  # for example of an optimizer
            file.seek(storage.size * np.dtype(storage.dtype).itemsize, os.SEEK_CUR)
    return {name: _view(name, tensor, values) for name, tensor in tensors.items()}


def _read_zip(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("the archive has no data.pkl, so torch.save did not write it")

        def checked(name: str) -> zipfile.ZipInfo:
            entry = entries.get(roots[0] + name)
            if entry is None:
                raise ValueError(f"the archive has no {name}")
            # torch.save does not compress; a compressed entry could expand without bound.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                raise ValueError(f"{name} in the archive is compressed")
            return entry

        def stored(storage: _Storage) -> np.ndarray:
            entry = checked(f"data/{storage.key}")
            with archive.open(entry) as data:
                return _read_storage(data, storage, entry.file_size)

        if roots[0] + "byteorder" in entries and archive.read(checked("byteorder")) != b"little":
            raise ValueError("it was written on a big-endian machine")
        main = archive.read(checked("data.pkl"))
        tensors = _state_dict(_load_pickle(io.BytesIO(main), len(main)))
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        # Several entries of an archive may refer to the same bytes.
        if sum(checked(f"data/{key}").file_size for key in storages) > size:
            raise ValueError("its storages are larger than the file")
        values = {key: stored(storage) for key, storage in storages.items()}
    return {name: _view(name, tensor, values) for name, tensor in tensors.items()}


def _storages(value: Any) -> Iterator[_Storage]:
    """Yields the storages of all tensors in a pickle's value, at any depth."""
    seen, remaining = set(), [value]
    while remaining:
        value = remaining.pop()
        if isinstance(value, _Tensor):
            if isinstance(value.storage, _Storage):
                yield value.storage
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            remaining += value.values() if isinstance(value, dict) else value


def _state_dict(value: Any) -> Mapping[str, _Tensor]:
    """Returns the value, or the only state dict in a checkpoint such as {"state_dict": …}."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not a dictionary of tensors")
    inner = {
        name: child
        for name, child in value.items()
        if isinstance(child, dict) and child and all(isinstance(t, _Tensor) for t in child.values())
    }
    if len(inner) > 1:
        names = ", ".join(f"{name!r:.80}" for name in inner)
        raise ValueError(f"it holds several state dicts ({names}); save only one of them")
    if inner:
        (value,) = inner.values()
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(f"its entry {_short(name)} is not a named tensor")
        if not isinstance(tensor.storage, _Storage):
            raise ValueError(f"tensor {name} has no storage")
    return value


def _read_storage(file: IO[bytes], storage: _Storage, available: int) -> np.ndarray:
    """Reads the next `storage.size` values of the file, which has `available` bytes left."""
    dtype = np.dtype(storage.dtype)
    expected = storage.size * dtype.itemsize
    if expected > available:
        raise ValueError(
            f"storage {storage.key} should have {expected} bytes, but the file has only "
            f"{available} for it"
        )
    data = file.read(expected)
    if len(data) != expected:
        raise ValueError(f"the file ends inside storage {storage.key}")
    return np.frombuffer(data, dtype)


def _view(name: str, tensor: _Tensor, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a tensor as a strided window of its storage, after checks of all its numbers."""
    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    if not (
        isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides) <= MAX_DIMENSIONS
    ):
        raise ValueError(f"tensor {name} has no valid shape")
    if not all(map(_is_count, (offset, *shape, *strides))):
        raise ValueError(f"tensor {name} has a size that is not a whole number")
    if tensor.storage.key not in values:
        raise ValueError(f"the storage of tensor {name} is missing")
    array = values[tensor.storage.key]
    if array.dtype != tensor.storage.dtype or math.prod(shape) > array.size:
        raise ValueError(f"tensor {name} of shape {shape!r:.80} does not fit its storage")
    itemsize = array.itemsize
    # NumPy also checks offset, shape and strides against the buffer and raises ValueError.
    steps = tuple(step * itemsize for step in strides)
    return np.ndarray(shape, array.dtype, array, offset * itemsize, steps)
