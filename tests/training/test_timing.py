"""Where the seconds of a run go."""

import time

import pytest

from mlcls_jax.training import timing
from mlcls_jax.training.timing import OTHER, PhaseTimer


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_all_seconds_are_somewhere_and_each_once(clock):
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


def test_a_block_that_fails_has_taken_its_time(clock):
    seconds = PhaseTimer()
    with pytest.raises(ValueError), seconds.measure("evaluation"):
        clock[0] += 4
        raise ValueError
    assert seconds.take()["evaluation"] == 4


def test_by_default_it_begins_now():
    before = time.perf_counter()
    assert sum(PhaseTimer().take().values()) <= time.perf_counter() - before + 1e-3
