"""Learning-rate schedules of a phase."""

from collections.abc import Callable

import optax

from mlcls_jax.config import Phase

# (phase, peak rate of a group, steps of the phase, steps of its warmup) -> rate by step.
MakeSchedule = Callable[[Phase, float, int, int], optax.Schedule]

# Share of rising steps, peak / first rate and first / last rate, as in
# optax.cosine_onecycle_schedule and torch's OneCycleLR.
RISE, START, END = 0.3, 25.0, 1e4


def make_schedule(phase: Phase, peak: float, steps: int, warmup: int) -> optax.Schedule:
    """Returns the schedule of a phase, whose highest rate is `peak`.

    cosine: linear warmup to the peak, then cosine to 0 (arXiv:1608.03983, one period).
    constant: linear warmup to the peak, then constant.
    onecycle: cosine from 1/25 of the peak to the peak in the first 30 % of the steps, then cosine
        to 1/250,000 of the peak (arXiv:1708.07120, as in fastai and torch).  Momentum is constant.

    Args:
        phase: its field `schedule` is used.
        peak: the group's learning rate.
        steps: length of the phase.
        warmup: steps with a rising rate, at the start of the phase; 0 with onecycle.

    >>> from mlcls_jax.config import Group
    >>> phase = Phase("head", "4 steps", [Group("head/.*", 0.1)])
    >>> schedule = make_schedule(phase, peak=0.1, steps=4, warmup=1)
    >>> [round(float(schedule(step)), 3) for step in range(5)]
    [0.05, 0.1, 0.075, 0.025, 0.0]
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
    # The first rate is peak / (warmup + 1), because a step with rate 0 would have no effect.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, flat], [warmup])


def _one_cycle(peak: float, steps: int) -> optax.Schedule:
    """Same as optax.cosine_onecycle_schedule, which returns NaN if the rise is under one step."""
    rise = max(int(RISE * steps), 1)
    scales = {rise: START, max(steps, rise + 1): 1 / (START * END)}
    return optax.piecewise_interpolate_schedule("cosine", peak / START, scales)
