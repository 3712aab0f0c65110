"""What is shown beside the progress bar: whole epochs, times, the loss and the best metric."""

import time

import numpy as np
import pytest

from mlcls_jax.config import Phase
from mlcls_jax.step.phases import plan_phases
from mlcls_jax.training import progress
from mlcls_jax.training.progress import PhaseProgress, epoch_text


@pytest.mark.parametrize(("images", "batch_size"), [(463, 32), (87, 16), (3, 64), (1000, 1)])
def test_each_evaluation_after_an_epoch_is_at_a_whole_epoch(images, batch_size):
    phases = [Phase("head", "6 epochs", []), Phase("all", "12 epochs", [])]
    plan = plan_phases(phases, images, batch_size=batch_size, every="1 epoch")
    ends = [end for phase_plan in plan for end in phase_plan.evaluations]
    texts = [epoch_text(end, plan, images, batch_size) for end in ends]
    if images > batch_size:
        assert texts == [f"{epoch} of 18" for epoch in range(1, 19)]
    assert all(text.split(" of ")[0].isdecimal() for text in texts)


def test_half_an_epoch_is_shown_as_such():
    plan = plan_phases([Phase("head", "2 epochs", [])], 640, batch_size=32, every="0.5 epochs")
    texts = [epoch_text(end, plan, 640, 32) for end in plan[0].evaluations]
    assert texts == ["0.50 of 2", "1 of 2", "1.50 of 2", "2 of 2"]


def test_the_time_left_is_that_of_the_phase_and_says_if_more_follows(tmp_path, monkeypatch):
    plan = plan_phases(
        [Phase("head", "1 epoch", []), Phase("all", "2 epochs", [])],
        80,
        batch_size=8,
        every="1 epoch",
    )
    lines = [{"val": {"mAP": value, "loss": value}} for value in (0.5, 0.75, 0.25)]
    monkeypatch.setattr(progress, "read_metrics", lambda _: lines)
    now = time.perf_counter()
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def text(phase, metric, step, loss=(0.25, 0.75)):
        shown = PhaseProgress(
            plan[phase], phase == 1, tmp_path, metric, now - 65, plan[phase].start, began=now - 10
        )
        return shown.text(step, None if loss is None else np.array(loss))

    assert text(0, "mAP", 5) == (", loss 0.500, best mAP 0.750, 1:05, 0:10 left in this phase")
    assert text(1, "loss", 20) == ", loss 0.500, best loss 0.250, 1:05, 0:10 left"
    assert text(0, "mAP", 0, None) == ""
