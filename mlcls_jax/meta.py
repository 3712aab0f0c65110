"""What a checkpoint says of itself, checked before anything is built from it.

Runs are passed on, and their files are JSON that anybody can write.
"""

from dataclasses import dataclass
from typing import Any

import dacite


@dataclass(frozen=True)
class _BaseRate:
    frequencies: list[float]
    counted: list[bool]


@dataclass(frozen=True)
class _Needed:
    """Fields without which there is no model; more of them are for other modules to read."""

    step: int
    phase: str
    classes: list[str]
    base_rate: _BaseRate
    origin: dict


def check_meta(meta: Any, step: int) -> dict[str, Any]:
    """The same, if it may be the metadata of the checkpoint of a step.

    Raises:
        ValueError: a field is missing, of another type, or contradicts another one.
    """
    what = f"the metadata of checkpoint {step} are damaged"
    try:
        needed = dacite.from_dict(_Needed, meta)
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())  # it quotes values
        raise ValueError(f"{what}: {reason}; take another checkpoint") from error
    classes, base = needed.classes, needed.base_rate
    wrong = {
        f"it is of step {needed.step}": needed.step != step,
        "it names no class, or one twice": not classes or len(set(classes)) < len(classes),
        "its base rates are not one for each class": not (
            len(classes) == len(base.frequencies) == len(base.counted)
        ),
        "a base rate is no share": not all(0 <= share <= 1 for share in base.frequencies),
    }
    for problem, is_so in wrong.items():
        if is_so:
            raise ValueError(f"{what}: {problem}; take another checkpoint")
    return meta
