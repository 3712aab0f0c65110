"""Chooses the implementation of an operation per platform, dtype and shape, from a table.

The table is kernels.json in this folder, or the file that the environment variable
MLCLS_JAX_KERNELS names.  For each operation it has a list of rules, of which the first that fits is
used.  A rule names an implementation under "use"; its other keys are conditions:

    {"platform": "cuda", "dtype": "bfloat16", "max_channels": 96, "use": "native"}

"min_x" and "max_x" are limits of the fact x, and any other key is compared with the fact of that
name.  A rule without conditions fits always and must be the last.
"""

import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jax import lax

VARIABLE = "MLCLS_JAX_KERNELS"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # those that rules may name

_SHIPPED = Path(__file__).with_name("kernels.json")

Fact = str | int | float
Table = dict[str, list[dict[str, Any]]]


def by_platform(
    operation: str,
    implementations: Mapping[str, Callable],
    *operands: Any,
    **facts: Fact,
) -> Any:
    """Applies the implementation that the table chooses for the platform that is compiled for.

    Args:
        operation: a key of the table.
        implementations: functions of the operands, by the names that rules use.
        operands: arrays.
        facts: what rules may ask for in addition to the platform.
    """

    def chosen(platform: str) -> str:
        return choose(operation, implementations, platform=platform, **facts)

    default = chosen("")
    others = {name: chosen(name) for name in PLATFORMS}
    branches = {name: implementations[use] for name, use in others.items() if use != default}
    if not branches:
        return implementations[default](*operands)
    return lax.platform_dependent(*operands, **branches, default=implementations[default])


def choose(operation: str, known: Mapping[str, Any], **facts: Fact) -> str:
    """Returns the name of the implementation that the first fitting rule names.

    Args:
        operation: a key of the table.
        known: names that rules may use.
        facts: what the conditions of rules are compared with.

    Raises:
        ValueError: no rule fits, or the rule names an implementation or a fact that is unknown.
    """
    for rule in table()[operation]:
        if all(_holds(operation, key, value, facts) for key, value in rule.items() if key != "use"):
            if rule.get("use") in known:
                return rule["use"]
            raise ValueError(
                f"{_path()}: {operation}: unknown implementation {rule.get('use')!r}; use one of "
                f"{', '.join(known)}"
            )
    raise ValueError(
        f"{_path()}: {operation}: no rule fits {facts}; end with one without conditions"
    )


@cache
def table() -> Table:
    """Returns the rules of each operation; those that a file of the user's lacks are the shipped.

    Raises:
        ValueError: the file cannot be read or is not such a table.
    """
    path = _path()
    try:
        rules = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rules, dict) or not all(
            isinstance(each, list) for each in rules.values()
        ):
            raise ValueError("not an object of lists")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; {VARIABLE} names a table of kernels") from error
    shipped = json.loads(_SHIPPED.read_text(encoding="utf-8"))
    if unknown := set(rules) - set(shipped):
        raise ValueError(
            f"{path}: unknown operation {min(unknown)!r}; use one of {', '.join(shipped)}"
        )
    return shipped | rules


def _path() -> Path:
    return Path(os.environ.get(VARIABLE) or _SHIPPED)


def _holds(operation: str, key: str, value: Any, facts: Mapping[str, Fact]) -> bool:
    fact = key.removeprefix("min_").removeprefix("max_")
    if fact not in facts:
        raise ValueError(
            f"{_path()}: {operation}: unknown condition {key!r}; use {', '.join(facts)}"
        )
    if key.startswith("min_"):
        return facts[fact] >= value
    if key.startswith("max_"):
        return facts[fact] <= value
    return facts[fact] == value
