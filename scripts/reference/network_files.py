"""Weight files of other code bases, drawn again from NumPy's generators without these code bases.

A tensor's name decides its random values. The names and shapes, the running statistics, and where a
layout of Keras keeps each tensor are stored in tests/reference/networks.npz (live_networks.py).
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from reference_weights import random_bias, random_images, random_kernel, random_scale
from safetensors.numpy import save_file

Stored = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A network of a code base, and the case whose stored names and statistics it shares."""

    code_base: str
    variant: str
    weights: str


CASES = {
    "keras b0": Case("keras", "b0", "keras b0"),
    "keras v2b0": Case("keras", "v2b0", "keras v2b0"),
    "timm tf b0": Case("timm tf", "b0", "timm tf b0"),
    "timm tf v2b0": Case("timm tf", "v2b0", "timm tf v2b0"),
    "timm tf AdvProp b0": Case("timm tf AdvProp", "b0", "timm tf b0"),
    "timm tf Noisy Student b0": Case("timm tf Noisy Student", "b0", "timm tf b0"),
    "timm b0": Case("timm", "b0", "timm b0"),
    "torchvision b0": Case("torchvision", "b0", "torchvision b0"),
    "lukemelas b0": Case("lukemelas", "b0", "lukemelas b0"),
    "lite fork lite0": Case("lite fork", "lite0", "lite fork lite0"),
}
KERAS_LAYOUTS = (
    *("published.h5", "legacy.h5", "whole.h5"),
    *("keras_3.weights.h5", "keras_3_0.weights.h5"),
)
ODD, EVEN = (65, 97), (64, 64)  # height and width; paddings differ only where sizes are even
CHANNELS = 8  # of each updated statistic that are stored
# Of a running statistic, int8: variances are powers of 2 ** 0.5, and means are given in eighths of
# the standard deviation. The original values do not matter, as long as activations stay near them.
_MEAN_STEP, _VARIANCE_STEP = 8, 2
SMALLEST = 2.0**-20
_MEANS, _VARIANCES = ("running_mean", "moving_mean"), ("running_var", "moving_variance")


def images(size: tuple[int, int]) -> np.ndarray:
    """Returns two random images, uint8 [2, height, width, 3]."""
    return random_images(np.random.default_rng(1), (2, *size, 3))


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the random values of a tensor that is no running statistic."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.replace("/", ".").rsplit(".", 1)[-1]
    if kind in ("num_batches_tracked", "count"):
        return np.zeros(shape, np.int64)
    if name == "normalization/mean":
        return rng.uniform(0.3, 0.6, shape).astype(np.float32)
    if name == "normalization/variance":
        return rng.uniform(0.02, 0.4, shape).astype(np.float32)
    if kind in ("bias", "beta"):
        return random_bias(rng, shape)
    if len(shape) == 1:
        return random_scale(rng, shape)
    return _keras_kernel(rng, name, shape) if "/" in name else random_kernel(rng, shape)


def _keras_kernel(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 2:
        return random_kernel(rng, shape[::-1]).T
    rows, columns, inputs, outputs = shape
    if "dwconv" in name:
        return random_kernel(rng, (inputs, outputs, rows, columns)).transpose(2, 3, 0, 1)
    return random_kernel(rng, (outputs, inputs, rows, columns)).transpose(2, 3, 1, 0)


def is_statistic(name: str) -> bool:
    """Returns whether a tensor is a running mean or variance."""
    return name.endswith((*_MEANS, *_VARIANCES))


def variance_name(mean_name: str) -> str:
    """Returns the name of the variance that belongs to a running mean."""
    for mean, variance in zip(_MEANS, _VARIANCES, strict=True):
        if mean_name.endswith(mean):
            return mean_name.removesuffix(mean) + variance
    raise ValueError(f"{mean_name} is no running mean")


def pack_statistics(tensors: Stored) -> np.ndarray:
    """Returns int8 [2, all channels]: the running means and variances, coarsely, in file order."""
    means, exponents = [], []
    for name in (name for name in tensors if name.endswith(_MEANS)):
        variance = np.maximum(tensors[variance_name(name)], SMALLEST)  # 0 of a dead channel
        exponent = np.round(_VARIANCE_STEP * np.log2(variance))
        deviation = 2 ** (exponent / _VARIANCE_STEP / 2)
        means.append(np.round(_MEAN_STEP * tensors[name] / deviation))
        exponents.append(exponent)
    return np.clip([np.concatenate(means), np.concatenate(exponents)], -128, 127).astype(np.int8)


def unpack_statistics(packed: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Returns the running means and variances by name, from `pack_statistics`."""
    found, start = {}, 0
    for name in (name for name in shapes if name.endswith(_MEANS)):
        steps, exponent = packed[:, start : start + shapes[name][0]].astype(np.float32)
        start += len(steps)
        variance = 2 ** (exponent / _VARIANCE_STEP)
        found[name] = (steps / _MEAN_STEP * np.sqrt(variance)).astype(np.float32)
        found[variance_name(name)] = variance.astype(np.float32)
    return found


def shapes_of(stored: Stored, case: str) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor of a file by name, in file order."""
    return {name: tuple(shape) for name, shape in json.loads(str(stored[f"{case}: tensors"]))}


def tensors_of(stored: Stored, case: str) -> dict[str, np.ndarray]:
    """Returns the tensors of a case's file, in its code base's shapes and axis order."""
    weights = CASES[case].weights
    shapes = shapes_of(stored, weights)
    statistics = unpack_statistics(stored[f"{weights}: statistics"], shapes)
    return {
        name: statistics[name] if is_statistic(name) else draw(name, shape)
        for name, shape in shapes.items()
    }


def write(stored: Stored, case: str, folder: Path) -> Path:
    """Writes a case's weight file under the name that tells how it was trained.

    Returns:
        The path: .h5 as published for Keras, .safetensors for all others.
    """
    path = folder / str(stored[f"{case}: file"])
    if CASES[case].code_base == "keras":
        layout = f"{case}: published.h5 with top"
        return write_keras(json.loads(str(stored[layout])), tensors_of(stored, case), path)
    save_file({n: np.ascontiguousarray(t) for n, t in tensors_of(stored, case).items()}, path)
    return path


def write_keras(layout: dict[str, Any], tensors: Stored, path: Path) -> Path:
    """Writes an HDF5 file with the groups, attributes and tensors of a stored layout."""
    with h5py.File(path, "w") as file:
        for name, source in layout["tensors"].items():
            file[name] = tensors[source] if isinstance(source, str) else np.asarray(source)
        for name, attributes in layout["attributes"].items():
            for key, value in attributes.items():
                owner = file if name == "/" else file.require_group(name)
                owner.attrs[key] = np.array(value, "S") if isinstance(value, list) else value
    return path
