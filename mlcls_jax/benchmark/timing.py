"""Timing of steps: warm-up, repeated measurements in turn, median and spread."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

# Takes a number of steps, waits for the last one, and returns the seconds for all of them.
TimedCall = Callable[[int], float]

_MOST_STEPS = 10_000


@dataclass(frozen=True)
class Spread:
    """Median and range of several measurements.

    Attributes:
        median, low, high: of the measured values.
    """

    median: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Returns half of the range as a share of the median.

        >>> round(Spread(0.5, 0.4, 0.8).share, 3)
        0.4
        """
        return (self.high - self.low) / 2 / self.median

    def rate(self, amount: float) -> "Spread":
        """Returns `amount` per second, for a spread of the seconds that `amount` takes.

        >>> Spread(0.5, 0.4, 0.8).rate(8)
        Spread(median=16.0, low=10.0, high=20.0)
        """
        return Spread(amount / self.median, amount / self.high, amount / self.low)


def spread(values: list[float]) -> Spread:
    """Returns the median, the lowest and the highest value.

    >>> spread([0.5, 0.4, 0.8])
    Spread(median=0.5, low=0.4, high=0.8)
    """
    return Spread(statistics.median(values), min(values), max(values))


def agreed(value: float) -> float:
    """Returns the value of the first process in all processes, so that they decide the same."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def seconds_per_step(runs: dict[str, TimedCall], seconds: float, repeats: int) -> dict[str, Spread]:
    """Returns the seconds per step of each run.

    The runs take turns, so that a slow moment of the machine affects all of them.

    Args:
        runs: functions to time, by name.
        seconds: approximate length of one measurement; it has at least one step.
        repeats: number of measurements of each run, after its warm-up.
    """
    steps = {name: _warm_up(run, seconds) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(run(steps[name]) / steps[name])
    return {name: spread(values) for name, values in times.items()}


def _warm_up(run: TimedCall, seconds: float) -> int:
    """Returns how many steps take about `seconds`, from runs of increasing length."""
    run(1)
    steps = 1
    while True:
        taken = agreed(run(steps))
        if taken >= seconds / 4 or steps >= _MOST_STEPS:
            return max(1, min(_MOST_STEPS, math.ceil(steps * seconds / max(taken, 1e-9))))
        steps *= 4
