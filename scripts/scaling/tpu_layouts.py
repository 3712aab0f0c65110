"""Reads the layouts of a compiled TPU program: padding, copies and transposes.

A TPU stores the last one or two axes of a layout in tiles, such as 8 x 128 values, and fills up
what an array leaves of its last tiles.
"""

import math
import re
from dataclasses import dataclass

import jax.numpy as jnp

# %name = bf16[8,112,112,32]{0,3,2,1:T(8,128)(2,1)S(1)} operation(…
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shapes>\(.*?\)|\S+) (?P<operation>[\w-]+)\(",
    re.MULTILINE,
)
_ARRAY = re.compile(
    r"(?P<dtype>pred|bf16|[fsu]\d+)\[(?P<axes>[\d,]*)\]"
    r"(?:\{(?P<order>[\d,]*)(?::(?:T\((?P<tile>[\d,]+)\))?[^}]*)?\})?"
)
_DTYPES = {"pred": "bool", "bf16": "bfloat16", "f": "float", "s": "int", "u": "uint"}
# They name arrays that exist already.
_NAMES = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "iota"}
_MOVES = ("copy", "transpose")


@dataclass(frozen=True)
class Move:
    """A copy or transpose: the name in the program, the array it writes, and its bytes."""

    operation: str
    array: str
    bytes: int


@dataclass(frozen=True)
class _Array:
    """An array of the program: its text, its bytes, and those with the padding of its tiles."""

    text: str
    bytes: int
    padded: int


def padding(text: str) -> float:
    """Returns the share of the bytes of all results of the program that is padding."""
    arrays = [array for _, _, found in _results(text) for array in found]
    padded = sum(array.padded for array in arrays)
    return 1 - sum(array.bytes for array in arrays) / padded if padded else 0.0


def moves(text: str) -> list[Move]:
    """Returns the copies and transposes of the program, the largest first."""
    found = []
    for name, operation, arrays in _results(text):
        kind = name.split(".")[0] if operation == "fusion" else operation
        if arrays and any(word in kind for word in _MOVES) and not kind.endswith("-done"):
            found.append(Move(kind, arrays[0].text, arrays[0].padded))
    return sorted(found, key=lambda move: -move.bytes)


def _results(text: str):
    """Yields (name, operation, arrays) of each instruction of the program's main computation."""
    entry = text[text.find("ENTRY ") :]
    for match in _INSTRUCTION.finditer(entry):
        if match["operation"] not in _NAMES:
            arrays = [_array(found) for found in _ARRAY.finditer(match["shapes"])]
            yield match["name"], match["operation"], arrays


def _array(match: re.Match) -> _Array:
    name = match["dtype"]
    itemsize = jnp.dtype(_DTYPES.get(name) or _DTYPES[name[0]] + name[1:]).itemsize
    axes = [int(size) for size in match["axes"].split(",") if size]
    order = [int(axis) for axis in (match["order"] or "").split(",") if axis]
    tile = [int(size) for size in (match["tile"] or "").split(",") if size]
    sizes = list(axes)
    for axis, size in zip(order, reversed(tile), strict=False):  # the first of `order` is last
        sizes[axis] = -(-sizes[axis] // size) * size
    return _Array(match[0], math.prod(axes) * itemsize, math.prod(sizes) * itemsize)
