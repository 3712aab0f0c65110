"""A sample of the runs in which a system call fails, or the process or the power ends at it."""

import shutil
import subprocess
import sys

import failing_calls
import failing_training
import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler"
)


@pytest.mark.parametrize("part", ["0/2", "1/2"])
def test_a_run_survives_each_call_that_fails(part):
    words = ["--sample", "200", "--part", part]
    command = [sys.executable, failing_calls.__file__, *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert "100 runs, 0 failures" in ended.stdout


@pytest.mark.slow
def test_a_real_training_survives_calls_that_fail():
    words = ["--sample", "6", "--seconds", "300"]
    command = [sys.executable, failing_training.__file__, *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert "6 runs, 0 failures" in ended.stdout
