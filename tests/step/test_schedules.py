"""The one-cycle schedule; test_optimizer.py tests the other schedules."""

import numpy as np
import optax
import pytest
from tolerances import EPS

from mlcls_jax.config import Group, Phase
from mlcls_jax.step.schedules import make_schedule

ONE_CYCLE = Phase("p", "10 steps", [Group("head/.*", 1.0)], schedule="onecycle")
NEAR = 4 * EPS * 0.8  # of the peak: what is left at the end is a difference of numbers that large


def rates(steps: int, peak: float = 0.8) -> np.ndarray:
    schedule = make_schedule(ONE_CYCLE, peak, steps, 0)
    return np.array([float(schedule(step)) for step in range(steps + 1)])


@pytest.mark.parametrize("steps", [4, 10, 33, 100])
def test_one_cycle_equals_that_of_optax(steps):
    theirs = optax.cosine_onecycle_schedule(steps, 0.8)
    expected = [float(theirs(step)) for step in range(steps + 1)]
    np.testing.assert_allclose(rates(steps), expected, rtol=1e-6, atol=NEAR)


def test_one_cycle_by_its_formula():
    values, up, down = rates(100), np.arange(31) / 30, np.arange(71) / 70
    low, end = 0.8 / 25, 0.8 / 25e4
    rise = low + (0.8 - low) * (1 - np.cos(np.pi * up)) / 2
    fall = end + (0.8 - end) * (1 + np.cos(np.pi * down)) / 2
    np.testing.assert_allclose(values[:31], rise, rtol=1e-5)
    np.testing.assert_allclose(values[30:], fall, rtol=1e-4, atol=NEAR)
    assert values.argmax() == 30


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_every_step_of_a_short_cycle_has_a_positive_rate(steps):
    values = rates(steps)[:steps]
    assert np.isfinite(values).all() and (values > 0).all() and (values <= 0.8 + 1e-6).all()
    assert steps < 2 or values.max() == pytest.approx(0.8)
