"""Plan of a run in steps: when each phase starts, is evaluated and ends."""

import itertools
import math
from dataclasses import dataclass

from mlcls_jax.config import Phase
from mlcls_jax.config.durations import duration_in_steps


@dataclass(frozen=True)
class PlannedPhase:
    """A phase in steps, counted from the start of the run.

    Attributes:
        phase: the section of the config.
        start: the first step.
        stop: one past the last step.
        warmup: number of steps with a rising learning rate.
        evaluations: the steps after which the validation images are scored; the last is stop.
    """

    phase: Phase
    start: int
    stop: int
    warmup: int
    evaluations: tuple[int, ...]

    def chunk_steps(self, limit: int) -> int:
        """Returns the number of steps per call for programs that take several steps.

        It divides the longest interval between evaluations as evenly as possible.

        Args:
            limit: the largest number of steps per call.
        """
        ends = itertools.pairwise((self.start, *self.evaluations))
        longest = max(after - before for before, after in ends)
        return math.ceil(longest / math.ceil(longest / limit))


def plan_phases(
    phases: list[Phase], images: int, *, batch_size: int, every: str
) -> list[PlannedPhase]:
    """Returns the phases in steps, back to back; phases of 0 steps are dropped.

    Args:
        phases: the section of the config.
        images: number of training images.
        batch_size: images per step, over all devices.
        every: duration between evaluations, such as "1 epoch"; it restarts with each phase.

    Raises:
        ValueError: every phase lasts 0 steps.
    """
    plan, start = [], 0
    for phase in phases:
        steps = duration_in_steps(phase.duration, images, batch_size)
        if not steps:
            continue
        stop = start + steps
        evaluations = {start + step for step in _multiples(every, steps, images, batch_size)}
        warmup = duration_in_steps(phase.warmup, images, batch_size)
        plan.append(PlannedPhase(phase, start, stop, warmup, tuple(sorted(evaluations))))
        start = stop
    if not plan:
        raise ValueError("config: all phases last 0 steps; set phases[i].duration of one of them")
    return plan


def check_parts(plan: list[PlannedPhase], batch_size: int, devices: int) -> None:
    """Checks that `accumulate` of every phase divides the images of a device.

    Args:
        plan: the phases.
        batch_size: images per step, over all devices.
        devices: number of devices, which divides the batch size.

    Raises:
        ValueError: `accumulate` of a phase does not.
    """
    rows = batch_size // devices
    for phase_plan in plan:
        phase = phase_plan.phase
        if rows % phase.accumulate:
            raise ValueError(
                f"config: phase {phase.name!r} has accumulate={phase.accumulate}, which does not "
                f"divide the {rows} images that each of {devices} devices gets of "
                f"data.batch_size={batch_size}; change accumulate or data.batch_size"
            )


def _multiples(every: str, steps: int, images: int, batch_size: int) -> set[int]:
    """Returns the ends of all multiples of `every` within a phase, and the end of the phase."""
    ends = (duration_in_steps(every, images, batch_size, times) for times in itertools.count(1))
    return {*itertools.takewhile(lambda end: end < steps, ends), steps}
