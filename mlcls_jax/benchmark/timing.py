"""Seconds of a step: warm-up, rounds of many steps in turn, median and spread."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

# Takes so many steps, waits for the last, and gives the seconds that it took.
TimedCall = Callable[[int], float]

_MOST_STEPS = 10_000


@dataclass(frozen=True)
class Spread:
    """Of several measurements of the same thing."""

    median: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Half of the distance from low to high, as a share of the median."""
        return (self.high - self.low) / 2 / self.median

    def rate(self, amount: float) -> "Spread":
        """Of seconds: how much of `amount` a second does."""
        return Spread(amount / self.median, amount / self.high, amount / self.low)


def spread(values: list[float]) -> Spread:
    """Median, lowest and highest."""
    return Spread(statistics.median(values), min(values), max(values))


def agreed(value: float) -> float:
    """The first process's value, on all: processes must decide the same."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def seconds_per_step(runs: dict[str, TimedCall], seconds: float, repeats: int) -> dict[str, Spread]:
    """Times each run `repeats` times, in turn, so that a slow minute falls on all of them.

    Args:
        runs: each by a name.
        seconds: about how long one repeat of one run takes; at least one step.
        repeats: how many times each is timed, after its warm-up.
    """
    steps = {name: _warm_up(run, seconds) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(run(steps[name]) / steps[name])
    return {name: spread(values) for name, values in times.items()}


def _warm_up(run: TimedCall, seconds: float) -> int:
    """Runs until a stretch is long enough to tell how many steps the wanted seconds hold."""
    run(1)
    steps = 1
    while True:
        taken = agreed(run(steps))
        if taken >= seconds / 4 or steps >= _MOST_STEPS:
            return max(1, min(_MOST_STEPS, math.ceil(steps * seconds / max(taken, 1e-9))))
        steps *= 4
