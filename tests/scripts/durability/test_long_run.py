"""Findings about recorded runs, and a short run: nothing compiles late, no file stays open."""

import long_run
import pytest
from long_run import COLLECTION, EVALUATION, LOG, Recorder, findings, make_config, report

from mlcls_jax.train import train


def recorded(steps: int) -> Recorder:
    """A run with two evaluations and no other events."""
    return Recorder(
        seconds=[0.01] * steps,
        cpu=[0.02] * steps,
        reasons=[frozenset()] * steps,
        megabytes=[500.0] * steps,
        files=[20] * steps,
        used=[(steps // 2, 200.0), (steps, 200.0)],
        compiled=[9, 9],
    )


def test_a_quiet_run():
    found = findings(recorded(100))
    assert (found.slope, found.megabytes, found.files) == (0, (500, 500), (20, 20))
    assert found.growth == 0
    assert (found.compiled, found.slow, found.unexplained) == (0, {}, [])


def test_growth_is_found():
    run = recorded(1000)
    run.megabytes = [400 + 0.5 * n if n < 250 else 525 + 0.01 * (n - 250) for n in range(1000)]
    run.megabytes[600] = 1e4  # a single peak does not change the slope
    run.files = [20 + n // 100 for n in range(1000)]
    run.compiled += [11]
    run.used = [(100 * n, 200 + 0.7 * n + 50 * (n == 0)) for n in range(11)]
    found = findings(run)
    assert found.slope == pytest.approx(10, abs=0.1) and found.growth == pytest.approx(7)
    assert found.files == (23, 28) and found.compiled == 2


def test_slow_steps_have_a_reason_or_are_listed():
    run = recorded(100)
    for step, reasons in ((10, {EVALUATION, LOG, COLLECTION}), (20, {LOG}), (30, set())):
        run.seconds[step], run.cpu[step] = 0.04, 0.08
        run.reasons[step] = frozenset(reasons)
    run.seconds[40] = 0.05  # slow, with the usual CPU time
    run.reasons[50] = frozenset({LOG})  # not slow
    found = findings(run)
    assert found.slow == {EVALUATION: 1, LOG: 1, long_run.WAITED: 1}
    assert found.unexplained == [(31, 0.04)]
    text = report(run, found)
    assert "1 evaluation; 1 log; 1 waiting for a core or a disk; 1 without a reason\n" in text
    assert text.endswith("  step 31: 40.0 ms")


def test_memory_in_use_is_what_is_allocated():
    before = long_run.used_megabytes()
    allocated = bytearray(50_000_000)
    assert 45 < long_run.used_megabytes() - before < 55
    del allocated
    assert abs(long_run.used_megabytes() - before) < 5


@pytest.mark.slow
def test_a_short_run(tiny, tmp_path):
    assert tiny == long_run.VARIANT
    recorder = Recorder()
    with recorder.listening():
        train(make_config(tmp_path, 200, 4, features=True), tmp_path / "run")
    found = findings(recorder)
    assert len(recorder.compiled) == 4 and recorder.compiled[0] > 0  # the listener works
    assert found.compiled == 0
    assert found.files[0] >= found.files[1] > 3
