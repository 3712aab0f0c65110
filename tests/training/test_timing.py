"""The timer of the parts of a run."""

import time

import pytest

from mlcls_jax.training import timing
from mlcls_jax.training.timing import OTHER, PhaseTimer


@pytest.fixture
def clock(monkeypatch):
    """Returns a clock whose seconds the test sets."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_every_second_is_counted_exactly_once(clock):
    seconds = PhaseTimer(began=98.0)
    clock[0] += 1
    seconds.add_rest("start")
    with seconds.measure("evaluation"):
        clock[0] += 4
    seconds.add("input", 0.5)
    clock[0] += 2
    assert seconds.take() == {"start": 3.0, "evaluation": 4.0, "input": 0.5, OTHER: 1.5}
    clock[0] += 1
    assert seconds.take() == {OTHER: 1.0}


def test_the_time_of_a_failed_block_is_counted(clock):
    seconds = PhaseTimer()
    with pytest.raises(ValueError), seconds.measure("evaluation"):
        clock[0] += 4
        raise ValueError
    assert seconds.take()["evaluation"] == 4


def test_a_timer_starts_now_by_default():
    before = time.perf_counter()
    assert sum(PhaseTimer().take().values()) <= time.perf_counter() - before + 1e-3
