"""Phases are planned back to back and are evaluated at each multiple and at their end."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcls_jax.config import Group, Phase
from mlcls_jax.step.phases import PlannedPhase, check_parts, plan_phases


def plan_for(
    *durations: str, images=100, batch_size=10, every="1 epoch", warmup="0 steps"
) -> list[PlannedPhase]:
    phases = [
        Phase(f"p{i}", duration, [Group("head/.*", 1.0)], warmup=warmup)
        for i, duration in enumerate(durations)
    ]
    return plan_phases(phases, images, batch_size=batch_size, every=every)


def test_epochs_and_steps_back_to_back():
    plan = plan_for("2 epochs", "15 steps", "0.5 epochs", warmup="0.25 epochs")
    assert [(p.phase.name, p.start, p.stop) for p in plan] == [
        ("p0", 0, 20),
        ("p1", 20, 35),
        ("p2", 35, 40),
    ]
    assert [p.evaluations for p in plan] == [(10, 20), (30, 35), (40,)]
    assert [p.warmup for p in plan] == [2, 2, 2]


def test_fractional_epochs_do_not_drift():
    (plan,) = plan_for("4 epochs", images=104)
    assert plan.stop == 42  # 41.6
    assert plan.evaluations == (10, 21, 31, 42)


def test_evaluations_every_few_steps_restart_with_each_phase():
    first, second = plan_for("7 steps", "6 steps", every="3 steps")
    assert first.evaluations == (3, 6, 7)
    assert second.evaluations == (10, 13)


def test_a_phase_shorter_than_the_interval_is_evaluated_at_its_end():
    (plan,) = plan_for("7 steps", every="5 epochs")
    assert plan.evaluations == (7,)


def test_a_phase_of_zero_length_is_dropped():
    plan = plan_for("0 epochs", "3 steps", "0 steps", "2 steps")
    assert [(p.phase.name, p.start, p.stop) for p in plan] == [("p1", 0, 3), ("p3", 3, 5)]


def test_only_phases_of_zero_length_are_an_error():
    with pytest.raises(ValueError, match="duration"):
        plan_for("0 epochs", "0 steps")


@pytest.mark.parametrize("images", [1, 3, 9])
def test_fewer_images_than_a_batch(images):
    first, second = plan_for("1 epoch", "30 epochs", images=images)
    assert (first.start, first.stop, first.evaluations) == (0, 1, (1,))
    assert second.start == 1
    assert second.stop == 1 + 3 * images
    assert second.evaluations == tuple(range(2, second.stop + 1))  # each step once, not thirty


def test_accumulate_must_divide_the_rows_of_a_device():
    plan = plan_for("1 epoch", "2 epochs", batch_size=16)
    plan[1].phase.accumulate = 4
    check_parts(plan, 16, devices=4)
    with pytest.raises(ValueError, match=r"phase 'p1' has accumulate=4, .* the 2 images"):
        check_parts(plan, 16, devices=8)


@settings(max_examples=60, deadline=None)
@given(
    epochs=st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any),
    images=st.integers(1, 500),
    batch_size=st.integers(1, 64),
    every=st.sampled_from(["1 epoch", "0.3 epochs", "2 epochs", "1 step", "7 steps"]),
)
def test_any_plan_covers_all_steps_once_and_ends_in_an_evaluation(
    epochs, images, batch_size, every
):
    durations = [f"{n} epochs" for n in epochs]
    plan = plan_for(*durations, images=images, batch_size=batch_size, every=every)
    assert len(plan) == sum(n > 0 for n in epochs)
    assert plan[0].start == 0
    assert all(a.stop == b.start for a, b in pairwise(plan))
    for phase_plan in plan:
        assert phase_plan.start < phase_plan.stop == phase_plan.evaluations[-1]
        assert phase_plan.evaluations[0] > phase_plan.start
        assert list(phase_plan.evaluations) == sorted(set(phase_plan.evaluations))
