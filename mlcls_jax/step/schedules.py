"""Learning rate by step of a phase."""

from collections.abc import Callable

import optax

from mlcls_jax.config import Phase

# (phase, peak rate of a group, steps of the phase, steps of its warm-up) -> rate by step.
MakeSchedule = Callable[[Phase, float, int, int], optax.Schedule]

# Of optax.cosine_onecycle_schedule and of torch's OneCycleLR.
RISE, START, END = 0.3, 25.0, 1e4


def make_schedule(phase: Phase, peak: float, steps: int, warmup: int) -> optax.Schedule:
    """The schedule that the phase names, with its highest rate at `peak`.

    cosine: linear from 0 to the peak, then cosine to 0 (arXiv:1608.03983, one period).
    constant: linear from 0 to the peak, then flat.
    onecycle: cosine from 1/25 of the peak up to it in the first 30 % of the steps, and cosine down
        to a 250,000th of it (arXiv:1708.07120, as fastai and torch have it).  Momentum stays as it
        is.

    Args:
        phase: of the config; its name of the schedule is read.
        peak: the group's learning rate.
        steps: length of the phase.
        warmup: steps of it with a rising rate; 0 with onecycle.
    """
    if phase.schedule == "onecycle":
        return _one_cycle(peak, steps)
    warmup = min(warmup, steps)
    if phase.schedule == "constant":
        flat = optax.constant_schedule(peak)
    else:
        flat = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    if warmup == 0:
        return flat
    # From 1/(warmup + 1): a first step with rate 0 would be a step for nothing.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, flat], [warmup])


def _one_cycle(peak: float, steps: int) -> optax.Schedule:
    """optax.cosine_onecycle_schedule, which gives NaN where the rise is shorter than a step."""
    rise = max(int(RISE * steps), 1)
    scales = {rise: START, max(steps, rise + 1): 1 / (START * END)}
    return optax.piecewise_interpolate_schedule("cosine", peak / START, scales)
