"""Findings of the diagnosis, and the config overrides that they propose."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlcls_jax.config import Phase

NAMED = 6  # classes or files in a sentence
FIRST_DECAY = 0.01  # for what has none yet


@dataclass(frozen=True)
class Finding:
    """One sentence of the diagnosis.

    kind: "base rate", "too sure", "underfitting", "overfitting", "gap", "ceiling",
        "fine-tuning", "no gain", "few positives", "val unlike train", "label noise" or "nothing".
    text: with its numbers.
    next: what to try: config overrides, or sentences.
    """

    kind: str
    text: str
    next: tuple[str, ...] = ()


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more


def scaled_rates(index: int, phase: Phase, factor: float) -> tuple[str, ...]:
    """All learning rates of a phase times a factor. index: of the phase in the config."""
    return tuple(
        f"--config.phases[{index}].groups[{number}].learning_rate={factor * group.learning_rate:g}"
        for number, group in enumerate(phase.groups)
    )


def more_decay(index: int, phase: Phase) -> tuple[str, ...]:
    """The decay of all weights three times as strong, or begun."""
    return tuple(
        f"--config.phases[{index}].groups[{number}].weight_decay="
        f"{3 * group.weight_decay or FIRST_DECAY:g}"
        for number, group in enumerate(phase.groups)
    )


def longer(index: int, phase: Phase) -> str:
    """Twice its duration."""
    amount, unit = phase.duration.split()
    return f'--config.phases[{index}].duration="{2 * float(amount):g} {unit}"'
