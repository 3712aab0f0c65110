"""Warm-up, measurements in turn, median and spread, with times that the test sets."""

import pytest

from mlcls_jax.benchmark.timing import Spread, seconds_per_step, spread


def clocked(times, log, name):
    """Returns a run that takes the given seconds per step in turn, and then always the last."""
    pending = list(times)

    def run(steps):
        log.append((name, steps))
        return steps * (pending.pop(0) if len(pending) > 1 else pending[0])

    return run


def test_runs_take_turns_after_their_warm_up():
    log = []
    runs = {"slow": clocked([9.0, 2.0], log, "slow"), "fast": clocked([9.0, 0.1], log, "fast")}
    times = seconds_per_step(runs, seconds=1.0, repeats=2)
    warm_up = [("slow", 1), ("slow", 1), ("fast", 1), ("fast", 1), ("fast", 4)]
    assert log == [*warm_up, *[("slow", 1), ("fast", 10)] * 2]
    assert times["slow"] == Spread(2.0, 2.0, 2.0)
    assert times["fast"].median == pytest.approx(0.1)


def test_steps_that_take_no_time_also_end_the_warm_up():
    log = []
    times = seconds_per_step({"nothing": clocked([0.0], log, "nothing")}, 1.0, 1)
    assert times["nothing"] == Spread(0.0, 0.0, 0.0)
    assert max(steps for _, steps in log) <= 20_000


def test_spread_of_seconds_and_of_the_rate():
    seconds = spread([0.5, 0.4, 0.8])
    assert seconds == Spread(0.5, 0.4, 0.8)
    assert seconds.share == pytest.approx(0.4)
    assert seconds.rate(8) == Spread(16.0, 10.0, 20.0)
