"""Reads PyTorch files without torch, and refuses hostile ones.

The small files in this folder were written by torch 2.13 (`torch.save`), in both of its formats:
checkpoint*.pth by scripts/reference/make_torch_files.py, and torch_*.pth from

    base = torch.arange(24.0)
    OrderedDict(
        conv=torch.nn.Parameter(base.reshape(2, 3, 4).permute(2, 0, 1)),
        window=base[5:11].reshape(2, 3),
        half=torch.tensor([0.5, -2.0]).half(),
        num_batches_tracked=torch.tensor(7),
        empty=torch.zeros(0, 3),
        mask=torch.tensor([True, False]),
    )

Hostile files are written here, with stand-ins for the modules of torch.
"""

import io
import os
import pickle
import struct
import sys
import time
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import make_torch_files
import numpy as np
import pytest

from mlcls_jax.models.weights.download import packaged_weights
from mlcls_jax.models.weights.torch_pickle import read_torch

DATA = Path(__file__).parent
BASE = np.arange(24, dtype=np.float32)
EXPECTED = {
    "conv": BASE.reshape(2, 3, 4).transpose(2, 0, 1),
    "window": BASE[5:11].reshape(2, 3),
    "half": np.array([0.5, -2.0], np.float16),
    "num_batches_tracked": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "mask": np.array([True, False]),
}
STREAM_HEADER = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {}})


class Call:
    """An object that pickles as a call of a global with arguments."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state) if state else (function, arguments)

    def __reduce__(self):
        return self.reduced


class Storage:
    """An object that pickles as a persistent id."""

    def __init__(self, pid):
        self.pid = pid


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


@pytest.fixture
def torch(monkeypatch):
    """Stand-ins for names of torch, importable only while a test pickles references to them."""
    package, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, name in (
        (package, "FloatStorage"),
        (package, "load"),
        (utils, "_rebuild_tensor_v2"),
    ):
        member = type(name, (), {})
        member.__module__, member.__qualname__ = module.__name__, name
        setattr(module, name, member)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    package.__dict__["_utils"] = utils
    return package


def tensor(torch, *, count=4, offset=0, shape=(2, 2), strides=(2, 1), key="0"):
    storage = Storage(("storage", torch.FloatStorage, key, "cpu", count))
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, {})


def pickled(value) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def write_stream(path, value, header=STREAM_HEADER, keys=("0",), count=4, data=b"\0" * 16):
    headers = [item if isinstance(item, bytes) else pickled(item) for item in header]
    main = value if isinstance(value, bytes) else pickled(value)
    tail = struct.pack("<q", count) + data
    path.write_bytes(b"".join((*headers, main, pickled(list(keys)), tail)))
    return path


def write_zip(path, value, compression=zipfile.ZIP_STORED, data=b"\0" * 16, byteorder="little"):
    main = value if isinstance(value, bytes) else pickled(value)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", main)
        archive.writestr("a/byteorder", byteorder)
        archive.writestr("a/data/0", data)
    return path


WRITERS = pytest.mark.parametrize("write", [write_stream, write_zip])


@pytest.mark.parametrize("filename", ["torch_zip.pth", "torch_stream.pth"])
def test_reads_what_torch_wrote(filename):
    tensors = read_torch(DATA / filename)
    assert list(tensors) == list(EXPECTED)
    for name, array in EXPECTED.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array, strict=True)


def test_reads_the_weights_of_the_lite0_package():
    tensors = read_torch(packaged_weights("lite0"))
    assert len(tensors) == 296
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_fc.weight"].shape == (1000, 1280)
    floats = [array for array in tensors.values() if array.dtype.kind == "f"]
    assert sum(array.size for array in floats) == 4_652_008 + 42_016  # parameters, statistics
    assert all(np.isfinite(array).all() for array in floats)


@WRITERS
def test_reads_a_small_file(tmp_path, torch, write):
    values = np.arange(4, dtype="<f4")
    path = write(tmp_path / "a.pth", {"w": tensor(torch)}, data=values.tobytes())
    np.testing.assert_array_equal(read_torch(path)["w"], values.reshape(2, 2), strict=True)


@WRITERS
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_executes_nothing(tmp_path, write, protocol):
    marker = tmp_path / "marker"
    hostile = pickle.dumps({"w": Call(os.mkdir, str(marker))}, protocol)
    with pytest.raises(ValueError, match=r"a\.pth.*global (posix|nt)\.mkdir, "):
        read_torch(write(tmp_path / "a.pth", hostile))
    assert not marker.exists()


@WRITERS
@pytest.mark.parametrize(
    "name",
    ["os system", "posix system", "builtins eval", "torch load", "torch._utils _rebuild_tensor"],
)
def test_refuses_every_other_global_by_name(tmp_path, write, name):
    hostile = b"c" + name.replace(" ", "\n").encode() + b"\n(S'touch x'\ntR."
    with pytest.raises(ValueError, match=r"a\.pth .*global " + name.replace(" ", r"\.") + ", "):
        read_torch(write(tmp_path / "a.pth", hostile))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_refuses_globals_in_the_header(tmp_path, position):
    header: list[object] = list(STREAM_HEADER)
    header[position] = b"cos\nsystem\n(S'touch x'\ntR."
    with pytest.raises(ValueError, match=r"a\.pth .*global os\.system, "):
        read_torch(write_stream(tmp_path / "a.pth", {}, header=header))


def test_refuses_dotted_globals(tmp_path):
    dotted = b"\x80\x04\x8c\x0bcollections\x8c\x12OrderedDict.update\x93."
    with pytest.raises(ValueError, match=r"global collections\.OrderedDict\.update, "):
        read_torch(write_stream(tmp_path / "a.pth", dotted))


def test_a_file_cannot_change_how_the_next_one_is_read(tmp_path, torch):
    altered = b"ctorch._utils\n_rebuild_tensor_v2\n(N(S'__defaults__'\n(I1\nI2\nI3\nI4\ntdtb."
    with pytest.raises(ValueError, match="holds a function, not a dictionary"):
        read_torch(write_stream(tmp_path / "hostile.pth", altered))
    short = Call(torch._utils._rebuild_tensor_v2, Storage(("storage", 1)))
    with pytest.raises(ValueError, match="usable"):
        read_torch(write_stream(tmp_path / "short.pth", {"w": short}))
    assert read_torch(write_stream(tmp_path / "good.pth", {"w": tensor(torch)}))["w"].sum() == 0


@pytest.mark.parametrize("filename", ["torch_zip.pth", "torch_stream.pth"])
def test_truncated_anywhere(tmp_path, filename):
    content, path = (DATA / filename).read_bytes(), tmp_path / "cut.pth"
    for size in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"cut\.pth is not a usable PyTorch state dict: ."):
            read_torch(path)


@pytest.mark.parametrize("filename", ["torch_zip.pth", "torch_stream.pth"])
def test_damage_raises_only_value_errors(tmp_path, filename):
    content, path = (DATA / filename).read_bytes(), tmp_path / "damaged.pth"
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_torch(path)
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"PK\x03\x04 not an archive", b"\x80\x02K\x07."]
)
def test_garbage(tmp_path, content):
    path = tmp_path / "garbage.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"garbage\.pth is not a usable PyTorch state dict: ."):
        read_torch(path)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"none\.pth cannot be read .*check the path"):
        read_torch(tmp_path / "none.pth")


@WRITERS
@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"count": 5}, "storage 0 "),
        ({"count": 2**40, "shape": (2**40,), "strides": (1,)}, "storage 0 "),
        ({"count": -1}, "malformed storage"),
        ({"shape": (2**20, 2**20), "strides": (0, 0)}, "does not fit its storage"),
        ({"shape": (2, 2), "strides": (3, 1)}, "usable"),
        ({"offset": 1}, "usable"),
        ({"offset": -1}, "not a whole number"),
        ({"shape": (-2, -2)}, "not a whole number"),
        ({"strides": (-1, 1)}, "not a whole number"),
        ({"strides": (1,)}, "no valid shape"),
        ({"key": "1"}, "storage '?0'?|no data/1"),
    ],
)
def test_declared_sizes_are_checked(tmp_path, torch, write, claim, message):
    path = write(tmp_path / "a.pth", {"w": tensor(torch, **claim)})
    with pytest.raises(ValueError, match=rf"a\.pth .*({message})"):
        read_torch(path)


@WRITERS
def test_refuses_a_huge_memo(tmp_path, write):
    path = write(tmp_path / "a.pth", b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(ValueError, match=r"a\.pth .*memo"):
        read_torch(path)


@WRITERS
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "holds a list"),
        (OrderedDict(epoch=3), "its entry 'epoch' is not a named tensor"),
        ({1: None}, "its entry 1 is not a named tensor"),
        ({"w": Storage(("module", "x"))}, "unknown persistent id"),
    ],
)
def test_only_a_dictionary_of_tensors(tmp_path, write, value, message):
    with pytest.raises(ValueError, match=rf"a\.pth .*{message}"):
        read_torch(write(tmp_path / "a.pth", value))


def doubled(open_: bytes, close: bytes, times: int = 60) -> bytes:
    """Returns opcodes of nested values: each is twice in the next one, and all are in the memo."""
    value = b"K\x01q\0"
    for i in range(times):
        get = b"h" + bytes([i])
        value += b"0" + open_ + get + get + close + b"q" + bytes([i + 1])
    return value


TUPLES, LISTS = doubled(b"", b"\x86"), doubled(b"](", b"e")  # lists are appended to


@WRITERS
@pytest.mark.parametrize(
    "opcodes",
    [
        b"}" + TUPLES + b"K\0s.",
        b"}(" + TUPLES + b"K\0u.",
        b"(" + TUPLES + b"K\0d.",
        b"\x8f(" + TUPLES + b"\x90.",
        b"(" + TUPLES + b"\x91.",
    ],
    ids=["item", "items", "dict", "set", "frozenset"],
)
def test_a_key_that_would_take_forever_to_hash(tmp_path, write, opcodes):
    with pytest.raises(ValueError, match=r"a\.pth .*key of a dictionary is not a plain value"):
        read_torch(write(tmp_path / "a.pth", b"\x80\x04" + opcodes))
    call = b"ccollections\nOrderedDict\n](]" + TUPLES + b"aK\0ae\x85R."
    with pytest.raises(ValueError, match="usable"):
        read_torch(write(tmp_path / "a.pth", b"\x80\x04" + call))


def test_a_value_that_would_take_forever_to_print_or_traverse(tmp_path):
    header: list = list(STREAM_HEADER)
    header[1] = b"\x80\x04" + LISTS + b"."
    with pytest.raises(ValueError, match="unknown protocol a list"):
        read_torch(write_stream(tmp_path / "a.pth", {}, header=header))
    with pytest.raises(ValueError, match="its entry 'a' is not a named tensor"):
        read_torch(write_stream(tmp_path / "a.pth", b"\x80\x04}U\x01a" + LISTS + b"s."))


@WRITERS
def test_a_hundred_thousand_dimensions(tmp_path, torch, write):
    sizes = (2**62,) * 10**5
    path = write(tmp_path / "a.pth", {"w": tensor(torch, shape=sizes, strides=sizes)})
    with pytest.raises(ValueError, match="tensor w has no valid shape"):
        read_torch(path)


def test_storages_that_share_the_same_bytes(tmp_path, torch):
    """Many entries of an archive may refer to the same bytes, which makes it a zip bomb."""
    path, names = tmp_path / "a.pth", [str(i) for i in range(50)]
    value = {name: tensor(torch, key=name, count=1000) for name in names}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled(value))
        archive.writestr("a/data/0", b"\0" * 4000)
        whole = archive.NameToInfo["a/data/0"]
        for name in names[1:]:
            entry = zipfile.ZipInfo(f"a/data/{name}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(entry, field, getattr(whole, field))
            archive.filelist.append(entry)
    with pytest.raises(ValueError, match=r"a\.pth .*storages are larger than the file"):
        read_torch(path)


def test_an_ordered_dict_pickled_by_python_2(tmp_path, torch):
    pairs = Call(OrderedDict, [["w", tensor(torch)]])
    assert read_torch(write_stream(tmp_path / "a.pth", pairs)).keys() == {"w"}


PAIRS = b"X\1\0\0\0aK\1\x86" * 20
ORDERED = b"\x80\2ccollections\nOrderedDict\nq\0]q\1(" + PAIRS + b"e\x85q\2"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (ORDERED + b"(" + b"h\0h\2R" * 100 + b"l.", "dictionaries hold more items than"),
        (ORDERED + b"h\0h\2Rq\3" + b"h\0h\3b" * 65 + b".", "the state of more than 64 objects"),
        (b"\x80\2\x8b\x20\0\0\0" + b"\x7f" * 32 + b".", "an integer of more than 128 bits"),
        (b"\x80\2Np999999999\n.", "memo is larger than the file"),
        (b"\x80\2" + b"N" * 2_000_001 + b".", "more than 2,000,000 opcodes"),
    ],
)
def test_what_a_few_bytes_ask_for_has_a_budget(tmp_path, value, reason):
    with pytest.raises(ValueError, match=rf"a\.pth .*{reason}"):
        read_torch(write_zip(tmp_path / "a.pth", value))


def test_many_open_marks_take_linear_time(tmp_path):
    """Each of 100,000 tuples in the next; searching for the mark of each would take a minute."""
    value = b"\x80\2" + b"(" * 100_000 + b"t" * 100_000 + b"."
    began = time.process_time()
    with pytest.raises(ValueError, match="holds a tuple"):
        read_torch(write_zip(tmp_path / "a.pth", value))
    assert time.process_time() - began < 5


def test_compressed_zip_entries_are_refused(tmp_path, torch):
    value = {"w": tensor(torch)}
    compressed = write_zip(tmp_path / "a.pth", value, zipfile.ZIP_DEFLATED, b"\0" * 10**6)
    with pytest.raises(ValueError, match=r"a\.pth .*compressed"):
        read_torch(compressed)


@pytest.mark.parametrize("write", ["stream", "zip"])
def test_big_endian_is_refused(tmp_path, torch, write):
    path, value = tmp_path / "a.pth", {"w": tensor(torch)}
    if write == "zip":
        write_zip(path, value, byteorder="big")
    else:
        write_stream(path, value, header=(*STREAM_HEADER[:2], {"little_endian": False}))
    with pytest.raises(ValueError, match=r"a\.pth .*big-endian"):
        read_torch(path)


CHECKPOINTS = ["checkpoint_zip.pth", "checkpoint_stream.pth"]
LINEAR = {  # the first parameters of Linear(3, 2), set by hand
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([0.5, -0.5], np.float32),
}


@pytest.mark.parametrize("filename", CHECKPOINTS)
def test_the_state_dict_of_a_training_checkpoint(filename):
    """The optimizer's tensors are stored before and between those of the state dict."""
    assert_reads_the_state_dict(DATA, filename)


@pytest.mark.reference
@pytest.mark.parametrize("filename", CHECKPOINTS)
def test_the_state_dict_of_a_new_training_checkpoint(filename, tmp_path):
    make_torch_files.write(tmp_path)
    assert_reads_the_state_dict(tmp_path, filename)


def assert_reads_the_state_dict(folder, filename):
    tensors = read_torch(folder / filename)
    assert tensors.keys() == LINEAR.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, LINEAR[name], strict=True)
    with pytest.raises(ValueError, match=r"several state dicts \('state_dict', 'state_dict_ema'\)"):
        read_torch(folder / filename.replace("checkpoint", "checkpoint_ema"))
