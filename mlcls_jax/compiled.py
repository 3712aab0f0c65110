"""What a compiled program says about itself: arithmetic, memory and collectives."""

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
    """One communication between devices: its kind, such as "all-reduce", and a device's bytes."""

    kind: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by the compiler's analysis.

    temporary: beside arguments and results, at the highest point.
    arguments, results: of the program; aliased: results that take the place of an argument.
    """

    temporary: int
    arguments: int
    results: int
    aliased: int

    @property
    def peak(self) -> int:
        """All that the program needs at once."""
        return self.temporary + self.arguments + self.results - self.aliased


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """Each collective of the program, from its text."""
    text = compiled.as_text() or ""
    return [
        Collective(match["kind"], sum(map(_bytes, _ARRAY.finditer(match["shape"]))))
        for match in _COLLECTIVE.finditer(text)
    ]


def flops(compiled: jax.stages.Compiled) -> float:
    """Floating-point operations of one call on one device, by the compiler's count."""
    cost = compiled.cost_analysis()
    return float(cost["flops"]) if cost else math.nan


def memory(compiled: jax.stages.Compiled) -> Memory:
    """See Memory."""
    stats: Any = compiled.memory_analysis()
    return Memory(
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
