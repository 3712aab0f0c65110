"""Reads the tensors of a PyTorch `.pth` file into NumPy arrays, without torch.

Both formats of `torch.save` are pickles that refer to raw storages by key: the zip archive of
torch >= 1.6 (`NAME/data.pkl` beside `NAME/data/KEY`) and the older stream (three header pickles,
the main pickle, the list of keys, then for each key an int64 count and its raw values).  Format:
`torch/serialization.py`.

A pickle can name any function of Python and have it called.  The unpickler here looks up nothing:
the few names that a state dict needs are mapped to inert stand-ins and every other name is
refused.  Every size that a file claims is compared with the bytes that are there before use, so a
small file cannot claim much memory; each storage is read by itself, so that no more than the
tensors is held.
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

ZIP_MAGIC = b"PK\x03\x04"
STREAM_MAGIC = 0x1950A86A20F9469CFC6C
STREAM_PROTOCOL = 1001
MAX_DIMENSIONS = 64  # NumPy's limit; the product of a million sizes would take hours
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

    A dictionary with one state dict in it, as training scripts save them, is read as that one.

    Args:
        path: a `.pth` file, zip archive or older stream, little endian.

    Returns:
        The tensors by name, in the file's own dtypes, shapes and axis order (OIHW for
        convolutions).  The arrays are read-only, with the file's own strides.

    Raises:
        ValueError: no such file; truncated, damaged or something else than a state dict; or its
            pickle asks for a global other than those of a tensor (nothing of it is executed).
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
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} is not a usable PyTorch state dict: {reason}; get the file again, or save the "
            "state dict by itself: torch.save(model.state_dict(), …)"
        ) from error


class _Storage(NamedTuple):
    """A reference to `size` values under `key`; immutable, so that a pickle cannot alter it."""

    dtype: Any
    key: str
    size: int


class _Tensor(NamedTuple):
    """A strided window of a storage, as the pickle claims it: nothing is checked yet."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _StorageType(NamedTuple):
    """What `torch.FloatStorage` and its like are read as."""

    dtype: Any


class _TensorsOnly(pickle.Unpickler):
    """Admits dictionaries, plain values and tensors; any other global is refused by name."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="utf-8")
        self._admitted = _stand_ins()

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self._admitted[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for the global {module_name}.{global_name}, which a tensor does not "
                "need and which was not executed"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        # (storage, type, key, device, count) and in the stream format also a view, long unused.
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


def _stand_ins() -> dict[tuple[str, str], Any]:
    """The admitted globals; new ones for each file, as a pickle may set a function's attributes."""

    def tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None):
        return _Tensor(storage, offset, shape, strides)

    def parameter(tensor, requires_grad=False, hooks=None):
        return tensor

    def ordered(pairs=()):
        # Python 2 pickled an OrderedDict as a call with its items.
        if not all(isinstance(key, str) for key, _ in pairs):
            raise pickle.UnpicklingError("a key of a dictionary is no text")
        return OrderedDict(pairs)

    storages = {("torch", name): _StorageType(dtype) for name, dtype in STORAGE_DTYPES.items()}
    return storages | {
        ("collections", "OrderedDict"): ordered,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _short(value: Any) -> str:
    """For messages: plain values as they are, of others only the type."""
    is_plain = value is None or isinstance(value, str | int | float | bytes)
    return f"{value!r:.80}" if is_plain else f"a {type(value).__name__}"


def _load_pickle(file: IO[bytes], size: int) -> Any:
    """The next pickle of the file.  Raises almost anything if it is damaged."""
    start = file.tell()
    check_opcodes(file, size)
    end = file.tell()
    file.seek(start)
    # From memory: the unpickler would read ahead in a file, past the end of the pickle.
    value = _TensorsOnly(io.BytesIO(file.read(end - start))).load()
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
    wanted = {tensor.storage.key for tensor in tensors.values()}
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
            raise ValueError(f"storage {key} has {count} values where {storage.size} are due")
        if key in wanted:
            values[key] = _read_storage(file, storage, size - file.tell())
        else:  # of an optimiser, say
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
            # torch.save stores as it is; a compressed entry could expand without bound.
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
        # Entries of an archive may be the same bytes, each with a name of its own.
        if sum(checked(f"data/{key}").file_size for key in storages) > size:
            raise ValueError("its storages are larger than the file")
        values = {key: stored(storage) for key, storage in storages.items()}
    return {name: _view(name, tensor, values) for name, tensor in tensors.items()}


def _storages(value: Any) -> Iterator[_Storage]:
    """Of all tensors in a pickle's value, however deep."""
    seen, left = set(), [value]
    while left:
        value = left.pop()
        if isinstance(value, _Tensor):
            if isinstance(value.storage, _Storage):
                yield value.storage
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, dict) else value


def _state_dict(value: Any) -> Mapping[str, _Tensor]:
    """The value, or the one state dict in a training checkpoint, such as {"state_dict": …}."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not a dictionary of tensors")
    inner = {
        name: child
        for name, child in value.items()
        if isinstance(child, dict) and child and all(isinstance(t, _Tensor) for t in child.values())
    }
    if len(inner) > 1:
        names = ", ".join(f"{name!r:.80}" for name in inner)
        raise ValueError(f"it holds several state dicts ({names}); save one of them by itself")
    if inner:
        (value,) = inner.values()
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(f"its entry {_short(name)} is not a tensor with a name")
        if not isinstance(tensor.storage, _Storage):
            raise ValueError(f"tensor {name} has no storage")
    return value


def _read_storage(file: IO[bytes], storage: _Storage, available: int) -> np.ndarray:
    """The next `storage.size` values of the file, of which `available` bytes are left."""
    dtype = np.dtype(storage.dtype)
    due = storage.size * dtype.itemsize
    if due > available:
        raise ValueError(
            f"storage {storage.key} should have {due} bytes, but the file has only {available} "
            "for it"
        )
    data = file.read(due)
    if len(data) != due:
        raise ValueError(f"the file ends inside storage {storage.key}")
    return np.frombuffer(data, dtype)


def _view(name: str, tensor: _Tensor, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The strided window of a storage that a tensor is, after checks of all its numbers."""
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
    # NumPy compares offset, shape and strides with the buffer once more and raises ValueError.
    steps = tuple(step * itemsize for step in strides)
    return np.ndarray(shape, array.dtype, array, offset * itemsize, steps)
