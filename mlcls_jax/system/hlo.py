"""Cost of a compiled program: its arithmetic, its memory and its collectives."""

import math
import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

_COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<shape>.+?) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(",
    re.MULTILINE,
)
_ARRAY = re.compile(r"\b(?P<dtype>pred|bf16|[fsu]\d+)\[(?P<axes>[\d,]*)\]")
_DTYPES = {"pred": "bool", "bf16": "bfloat16", "f": "float", "s": "int", "u": "uint"}


@dataclass(frozen=True)
class Collective:
    """One communication between devices.

    kind: operation in HLO, such as "all-reduce".
    bytes: size of its result on one device.
    """

    kind: str
    bytes: int


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a program needs on one device, by the compiler's analysis.

    temporary: peak of the intermediate values, without arguments and results.
    arguments, results: of the program.
    aliased: results that reuse the memory of an argument.
    """

    temporary: int
    arguments: int
    results: int
    aliased: int

    @property
    def peak(self) -> int:
        """Bytes needed at the same time."""
        return self.temporary + self.arguments + self.results - self.aliased


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """Returns the collectives of a program, in the order of its text."""
    text = compiled.as_text() or ""
    return [
        Collective(match["kind"], sum(map(_bytes, _ARRAY.finditer(match["shape"]))))
        for match in _COLLECTIVE.finditer(text)
    ]


def flops(compiled: jax.stages.Compiled) -> float:
    """Returns the floating-point operations of one call on one device, as the compiler counts them.

    The compiler counts the body of a loop once.  On CPU the depthwise kernel gradients are such
    loops, so the figures of training are too low there.

    Returns:
        The count; NaN if the compiler gives none.
    """
    cost = compiled.cost_analysis()
    return float(cost["flops"]) if cost else math.nan


def memory(compiled: jax.stages.Compiled) -> MemoryUse:
    """Returns the memory of a program on one device, as the compiler plans it."""
    stats: Any = compiled.memory_analysis()
    return MemoryUse(
        temporary=stats.temp_size_in_bytes,
        arguments=stats.argument_size_in_bytes,
        results=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
    )


def _bytes(array: re.Match) -> int:
    name = array["dtype"]
    dtype = _DTYPES.get(name) or _DTYPES[name[0]] + name[1:]
    axes = [int(size) for size in array["axes"].split(",") if size]
    return math.prod(axes) * jnp.dtype(dtype).itemsize
