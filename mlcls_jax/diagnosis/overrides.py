"""Config overrides that findings propose for a phase."""

import shlex
from collections.abc import Sequence

from mlcls_jax.config import Phase

FIRST_DECAY = 0.01  # proposed if there is no weight decay yet


def phase_override(index: int, field: str, value: object) -> str:
    """Returns the override of one field of a phase.

    >>> phase_override(1, "patience", 3)
    '--config.phases[1].patience=3'
    """
    return f"--config.phases[{index}].{field}={value}"


def scaled_rates(index: int, phase: Phase, factor: float) -> tuple[str, ...]:
    """Returns overrides that multiply all learning rates of a phase by a factor."""
    return tuple(
        phase_override(index, f"groups[{i}].learning_rate", f"{factor * group.learning_rate:.2g}")
        for i, group in enumerate(phase.groups)
    )


def more_decay(index: int, phase: Phase) -> tuple[str, ...]:
    """Returns overrides that triple all weight decays of a phase, or introduce one."""
    return tuple(
        phase_override(
            index, f"groups[{i}].weight_decay", f"{3 * group.weight_decay or FIRST_DECAY:g}"
        )
        for i, group in enumerate(phase.groups)
    )


def longer(index: int, phase: Phase) -> str:
    """Returns the override that doubles the duration of a phase."""
    amount, unit = phase.duration.split()
    return phase_override(index, "duration", f"{2 * float(amount):g} {unit}")


def for_shell(suggestion: str) -> str:
    """Returns a suggestion, quoted for bash, zsh and fish if it is an override.

    >>> for_shell("--config.phases[1].patience=3")
    "'--config.phases[1].patience=3'"
    """
    return shlex.quote(suggestion) if suggestion.startswith("--") else suggestion


def quoted(overrides: Sequence[str]) -> str:
    """Returns overrides in one line, quoted for a shell."""
    return " ".join(map(shlex.quote, overrides))
