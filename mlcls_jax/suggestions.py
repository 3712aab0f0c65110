"""Overrides of a config that warnings and the diagnosis propose, ready for the command line."""

from mlcls_jax.config import Phase

FIRST_DECAY = 0.01  # for what has none yet


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
