"""Operations and donated arguments of a program, read from its text."""

import math
import re
from dataclasses import dataclass

import jax

_OPERATION = re.compile(
    r"\b(?P<kind>stablehlo\.\w+)\b(?P<rest>.*?) : "
    r"\((?P<operands>[^()]*)\) -> (?P<result>.+?)(?: loc|$)",
    re.MULTILINE,
)
_ALIAS = re.compile(r"\{[\d, ]*\}: \((?P<argument>\d+), \{\}, (?:may|must)-alias\)")


@dataclass(frozen=True)
class Operation:
    """One operation of StableHLO text.

    kind: such as "stablehlo.convolution".
    operands, results: types, such as "32x112x112x96xbf16".
    groups: feature groups of a convolution; 1 for other operations.
    """

    kind: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    groups: int


def donated(compiled: jax.stages.Compiled) -> set[int]:
    """Returns the indices of the flattened arguments whose memory a result reuses."""
    header = (compiled.as_text() or "").split("\n", 1)[0]
    return {int(match["argument"]) for match in _ALIAS.finditer(header)}


def operations(stablehlo: str, *kinds: str) -> list[Operation]:
    """Returns the operations of these kinds in StableHLO text, in order.

    Operations that name a single type for operands and results, such as "add", are not parsed.

    Args:
        stablehlo: text of a program.
        kinds: such as "convolution" and "transpose".
    """
    names = {f"stablehlo.{kind}" for kind in kinds}
    found = []
    for match in _OPERATION.finditer(stablehlo):
        if match["kind"] in names:
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
    """Returns the number of elements of a type such as "32x112x112x96xbf16"."""
    return math.prod(int(size) for size in array_type.split("x")[:-1])
