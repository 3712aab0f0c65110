"""A signal while a command still imports."""

import subprocess
import sys

import pytest

CODE = """
import os, signal
from mlcls_jax import early
{first}
early.leave_on_signals()
{middle}
os.kill(os.getpid(), signal.{name})
"""


def run(name, middle="", first=""):
    command = [sys.executable, "-c", CODE.format(name=name, middle=middle, first=first)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 0), ("SIGINT", 130)])
def test_it_ends_the_process_in_order(name, code):
    assert run(name) == (code, f"{name}: stopped before the start\n")


def test_later_all_is_as_it_was():
    assert run("SIGTERM", "early.stop_leaving()") == (-15, "")
    code, said = run("SIGINT", "early.stop_leaving()")
    assert said.endswith("KeyboardInterrupt\n") and code == -2


def test_what_is_ignored_stays_so():
    ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    assert run("SIGINT", "early.stop_leaving()", ignored) == (0, "")
