"""From durations to steps: when each phase starts, is evaluated and ends."""

import itertools
import math
from dataclasses import dataclass

from mlcls_jax.config import Config, Phase
from mlcls_jax.config.durations import duration_in_steps


@dataclass(frozen=True)
class PlannedPhase:
    """A phase in steps of the whole run.

    start: the first step; stop: one past the last.
    warmup: steps from start on.
    evaluations: the steps after which the validation images are scored; the last is stop.
    """

    phase: Phase
    start: int
    stop: int
    warmup: int
    evaluations: tuple[int, ...]

    def chunk_steps(self, most: int) -> int:
        """Steps of one call where a call takes several, up to the next evaluation: at most `most`,
        and so that the longest stretch between evaluations is divided evenly."""
        ends = itertools.pairwise((self.start, *self.evaluations))
        longest = max(after - before for before, after in ends)
        return math.ceil(longest / math.ceil(longest / most))


def plan_phases(config: Config, images: int) -> list[PlannedPhase]:
    """The phases that last longer than nothing, back to back.

    Args:
        config: phases, batch size and evaluation.every.
        images: number of training images.

    Raises:
        ValueError: every phase lasts 0 steps.
    """
    batch_size, every = config.data.batch_size, config.evaluation.every
    phase_plan, start = [], 0
    for phase in config.phases:
        steps = duration_in_steps(phase.duration, images, batch_size)
        if not steps:
            continue
        stop = start + steps
        evaluations = {start + step for step in _multiples(every, steps, images, batch_size)}
        warmup = duration_in_steps(phase.warmup, images, batch_size)
        phase_plan.append(PlannedPhase(phase, start, stop, warmup, tuple(sorted(evaluations))))
        start = stop
    if not phase_plan:
        raise ValueError("config: phases last 0 steps together; give one a phases[i].duration")
    return phase_plan


def check_parts(plan: list[PlannedPhase], batch_size: int, devices: int) -> None:
    """ValueError where the rows of each device do not divide by a phase's `accumulate`."""
    rows = batch_size // devices
    for phase_plan in plan:
        if rows % phase_plan.phase.accumulate:
            raise ValueError(
                f"config: phase {phase_plan.phase.name!r} has "
                f"accumulate={phase_plan.phase.accumulate}, which "
                f"does not divide the {rows} rows that each of {devices} devices has of "
                f"data.batch_size={batch_size}; change one of the two"
            )


def _multiples(every: str, steps: int, images: int, batch_size: int) -> set[int]:
    """Steps at the ends of whole multiples of `every`, and at the end of the phase."""
    ends = (duration_in_steps(every, images, batch_size, times) for times in itertools.count(1))
    return {*itertools.takewhile(lambda end: end < steps, ends), steps}
