"""Signals while a command still imports its modules."""

import subprocess
import sys

import pytest

CODE = """
import os, signal
from mlcls_jax.system import early_signals
{first}
early_signals.leave_on_signals()
{middle}
os.kill(os.getpid(), signal.{name})
"""


def run(name, middle="", first=""):
    command = [sys.executable, "-c", CODE.format(name=name, middle=middle, first=first)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129), ("SIGUSR1", 138)]
)
def test_a_signal_ends_the_process_with_its_exit_code(name, code):
    assert run(name) == (code, f"{name}: stopped before any work was done\n")


def test_stop_leaving_restores_the_defaults():
    assert run("SIGTERM", "early_signals.stop_leaving()") == (-15, "")
    assert run("SIGHUP", "early_signals.stop_leaving()") == (-1, "")
    code, text = run("SIGINT", "early_signals.stop_leaving()")
    assert text.endswith("KeyboardInterrupt\n") and code == -2


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_an_ignored_signal_stays_ignored(name):
    ignored = f"signal.signal(signal.{name}, signal.SIG_IGN)"
    assert run(name, "early_signals.stop_leaving()", ignored) == (0, "")
