"""A killed training ends like an undisturbed one; differences are reported."""

import os
from collections import Counter

import jax
import kill_and_resume
import numpy as np
import pytest
from kill_and_resume import MOMENTS, differences, draw, newest, read_state

from mlcls_jax.run.checkpoints import FOLDER
from mlcls_jax.run.workdir import METRICS


def test_moments_with_the_fewest_kills_are_drawn_next():
    rng, counts = np.random.default_rng(0), Counter()
    for _ in range(2 * len(MOMENTS)):
        counts[draw(counts, True, rng).name] += 1
    assert counts == {moment.name: 2 for moment in MOMENTS}
    later = {draw(Counter(), False, rng).name for _ in range(50)}
    assert later == {moment.name for moment in MOMENTS if not moment.head_only}


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_state(tmp_path, capsys, monkeypatch):
    jax.devices()  # starts the backend of this process before XLA_FLAGS changes
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    monkeypatch.setenv("XLA_FLAGS", flags)
    shorter = kill_and_resume.CONFIG.replace("96 steps", "32 steps")
    monkeypatch.setattr(kill_and_resume, "CONFIG", shorter)
    counts, found = kill_and_resume.crash(tmp_path, kills=1, seed=31)
    assert counts == {"save": 1} and not found
    assert capsys.readouterr().out.endswith("ended with the same state\n")

    run, reference = tmp_path / "run1", tmp_path / "undisturbed"
    state = read_state(run, newest(run))
    items = {name.split("[")[0] for name in state}
    assert items == {"model", "training", "ema"}
    lines = (run / METRICS).read_text().splitlines(keepends=True)
    (run / METRICS).write_text("".join([*lines, lines[-1]]))
    expected = f"{METRICS} has {len(lines) + 1} lines, expected {len(lines)}"
    assert differences(run, reference) == [expected]
    (run / FOLDER / "7.orbax-checkpoint-tmp").mkdir()
    (run / METRICS).write_text("".join(lines))
    assert differences(run, reference) == ["7.orbax-checkpoint-tmp was left behind"]
