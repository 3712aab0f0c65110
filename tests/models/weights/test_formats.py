"""File formats by their first bytes, and safetensors files that are damaged or hostile."""

import json
import struct
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from measure_loading import memory
from safetensors.numpy import save_file

from mlcls_jax.models.weights.formats import (
    TENSORS_PER_OPENING,
    read_safetensors,
    read_sidecar,
    read_tensors,
)

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)}


def write_safetensors(path, tensors=TENSORS):
    save_file(tensors, path)
    return path


def write_h5(path):
    with h5py.File(path, "w") as file:
        file["stem_conv/kernel"] = TENSORS["a.weight"]
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.SAFETENSORS", "model", "a.weights"])
def test_reads_safetensors_by_name_or_content(tmp_path, name):
    tensors = read_tensors(write_safetensors(tmp_path / name))
    assert tensors.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        np.testing.assert_array_equal(tensors[key], value)
        assert tensors[key].dtype == value.dtype


def test_reads_more_tensors_than_one_opening_takes(tmp_path):
    many = {f"t{i}": np.full(3, i, np.float32) for i in range(2 * TENSORS_PER_OPENING + 1)}
    tensors = read_safetensors(write_safetensors(tmp_path / "a.safetensors", many))
    assert {name: value[0] for name, value in tensors.items()} == {f"t{i}": i for i in range(129)}


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.h5", write_safetensors, r"name of a HDF5 .*content of a safetensors .*a\.safetensors"),
        ("a.pth", write_h5, r"name of a PyTorch .*content of a HDF5 file; rename it to a\.h5"),
        ("a.safetensors", write_h5, r"name of a safetensors file .*content of a HDF5 file"),
    ],
)
def test_a_name_that_contradicts_the_content(tmp_path, name, write, message):
    with pytest.raises(ValueError, match=message):
        read_tensors(write(tmp_path / name))


def test_a_file_of_an_unknown_format(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"a\.onnx is not a weight file of a .*mlcls_jax\.weights"):
        read_tensors(path)
    with pytest.raises(ValueError, match=r"none\.h5 cannot be read \(No such file"):
        read_tensors(tmp_path / "none.h5")
    with pytest.raises(ValueError, match="cannot be read"):
        read_tensors(tmp_path)


def header(size, **entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header too small"),
        (b"no safetensors at all", "header too large"),
        (header(10 * 2**30, a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}), "too large"),
        (
            header(None, a={"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]})
            + b"abcd",
            "not fully covered",
        ),
        (
            header(None, a={"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}) + b"abcd",
            "invalid shape",
        ),
        (header(None, a={"dtype": "Z9", "shape": [1], "data_offsets": [0, 4]}) + b"abcd", "Z9"),
        (
            header(None, a={"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}) + b"abcd",
            "dtype that NumPy does not support; save it as float32",
        ),
        (b"\x04\0\0\0\0\0\0\0{{{{", "key must be a string"),
    ],
    ids=["empty", "text", "10 GB header", "8 GB", "shape", "dtype", "float8", "JSON"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_damaged_safetensors(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    before = memory("VmRSS")
    with pytest.raises(ValueError, match=rf"a\.safetensors .*{message}"):
        read_tensors(path)
    assert memory("VmHWM") - before < 50e6


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_safetensors(tmp_path, part):
    path = write_safetensors(tmp_path / "a.safetensors", {"a": np.ones(1000, np.float32)})
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"a\.safetensors is not a usable safetensors file: ."):
        read_tensors(path)


def test_a_keras_archive_is_refused(tmp_path):
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(ValueError, match=r"a\.keras .*holds a whole Keras model.*save_weights"):
        read_tensors(path)


def test_the_config_json_next_to_a_file(tmp_path):
    assert read_sidecar(tmp_path / "a.h5") == {}
    (tmp_path / "config.json").write_text('{"architecture": "b"}')
    assert read_sidecar(tmp_path / "a.h5") == {"architecture": "b"}


def test_the_prefix_of_data_parallel_is_removed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {f"module.{name}": value for name, value in TENSORS.items()})
    assert read_tensors(path).keys() == TENSORS.keys()
    write_safetensors(path, {"module.a": np.zeros(1), "b": np.zeros(1)})
    assert read_tensors(path).keys() == {"module.a", "b"}


def test_more_tensors_than_a_network_has_are_refused(tmp_path):
    """Reading each of 300,000 names took minutes, because the header is parsed for every 64."""
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({str(i): entry for i in range(20_001)}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="has 20,001 tensors, more than 20,000"):
        read_tensors(path)
