"""What a program says about itself: compiled, its arithmetic, memory and collectives; exported,
its operations and their dtypes."""

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
_OPERATION = re.compile(
    r"\b(?P<kind>stablehlo\.\w+)\b(?P<rest>.*?) : "
    r"\((?P<operands>[^()]*)\) -> (?P<result>.+?)(?: loc|$)",
    re.MULTILINE,
)
_ALIAS = re.compile(r"\{[\d, ]*\}: \((?P<argument>\d+), \{\}, (?:may|must)-alias\)")
_ARRAY = re.compile(r"\b(?P<dtype>pred|bf16|[fsu]\d+)\[(?P<axes>[\d,]*)\]")
_DTYPES = {"pred": "bool", "bf16": "bfloat16", "f": "float", "s": "int", "u": "uint"}


@dataclass(frozen=True)
class Collective:
    """One communication between devices: its kind, such as "all-reduce", and a device's bytes."""

    kind: str
    bytes: int


@dataclass(frozen=True)
class Operation:
    """One operation of StableHLO text.

    kind: such as "stablehlo.convolution".
    operands, results: types, such as "32x112x112x96xbf16".
    groups: of a convolution's channels, else 1.
    """

    kind: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    groups: int


@dataclass(frozen=True)
class MemoryUse:
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


def donated(compiled: jax.stages.Compiled) -> set[int]:
    """Numbers of the arguments, flattened, whose memory a result takes."""
    header = (compiled.as_text() or "").split("\n", 1)[0]
    return {int(match["argument"]) for match in _ALIAS.finditer(header)}


def operations(stablehlo: str, *kinds: str) -> list[Operation]:
    """The operations of these kinds ("convolution", "transpose") in StableHLO text, in order.

    Those that name operands and results of one type only, such as "add", are not understood.
    """
    wanted = {f"stablehlo.{kind}" for kind in kinds}
    found = []
    for match in _OPERATION.finditer(stablehlo):
        if match["kind"] in wanted:
            groups = re.search(r"feature_group_count = (\d+)", match["rest"])
            found.append(
                Operation(
                    kind=match["kind"],
                    operands=tuple(re.findall(r"tensor<([^>]+)>", match["operands"])),
                    results=tuple(re.findall(r"tensor<([^>]+)>", match["result"])),
                    groups=int(groups[1]) if groups else 1,
                )
            )
    return found


def elements(array_type: str) -> int:
    """Of a type such as "32x112x112x96xbf16"."""
    return math.prod(int(size) for size in array_type.split("x")[:-1])


def flops(compiled: jax.stages.Compiled) -> float:
    """Floating-point operations of one call on one device, by the compiler's count.

    It counts the body of a loop once: on CPU, the depthwise kernel gradients are such loops, so
    that figures of training are too low there.
    """
    cost = compiled.cost_analysis()
    return float(cost["flops"]) if cost else math.nan


def memory(compiled: jax.stages.Compiled) -> MemoryUse:
    """See Memory."""
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
