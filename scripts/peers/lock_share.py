"""Measures with py-spy in which share of the time a process has Python's lock.

py-spy looks at the process at random moments. Three of its options matter where the lock is held
for some microseconds at a time: without --idle it drops a thread that did not run a moment before,
and without --nonblocking the process is stopped at each look. On a busy machine, py-spy would only
run when the process waits, so it gets the priority of real-time processes, which needs root.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peer_environments import last_line
from peer_worker import Step

RATE = 200  # looks per second
PRIORITY = 10  # of real-time processes; any is above all other processes
NEVER = "No stack counts found"  # what py-spy says if the lock was never held
# Seconds of a step under the lock and of its rest, to check the measurement itself.
KNOWN_LOCK, KNOWN_REST = 50e-6, 150e-6


def lock_share(pid: int, seconds: int, work: Callable[[], Any]) -> tuple[float, list[Any]]:
    """Returns the share of the time under the lock, and the results of `work` in that time.

    Args:
        pid: id of the process.
        seconds: how long to look.
        work: is repeated meanwhile; it should take a small part of the time.

    Raises:
        ValueError: py-spy is not installed, or may not look at the process.
    """
    with TemporaryDirectory() as temporary:
        output, log = Path(temporary, "stacks"), Path(temporary, "log")
        with (
            log.open("w") as file,
            subprocess.Popen(_command(pid, seconds, output), stdout=file, stderr=file) as process,
        ):
            _prefer(process)
            results = []
            while process.poll() is None:
                start = time.perf_counter()
                results.append((start, work()))
            end = time.perf_counter()
        text = log.read_text()
        if not output.exists() and NEVER not in text:
            raise ValueError(f"py-spy failed: {last_line(text)}")
        stacks = output.read_text() if output.exists() else ""
    held = sum(int(line.rpartition(" ")[2]) for line in stacks.splitlines())
    # Before the first look, py-spy reads the symbols of all libraries, and takes a core for it.
    looked = [result for start, result in results if start >= end - seconds]
    return held / (RATE * seconds), looked or [result for _, result in results[-1:]]


def _command(pid: int, seconds: int, output: Path) -> list[str]:
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        raise ValueError("py-spy is not installed; run pip install py-spy, or add --without-lock")
    looks = ["--rate", str(RATE), "--duration", str(seconds)]
    kind = ["--gil", "--idle", "--nonblocking", "--format", "raw"]
    return [program, "record", *kind, *looks, "--output", str(output), "--pid", str(pid)]


def _prefer(process: subprocess.Popen) -> None:
    """Lets a process run whenever it wants to."""
    try:
        os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except PermissionError:
        process.kill()
        raise ValueError(
            "the priority of py-spy cannot be raised; run as root, or add --without-lock"
        ) from None


def versions() -> str:
    """Returns nothing: the step below uses no library."""
    return ""


def build() -> dict[str, Step]:
    """Returns a step for peer_worker.py that has the lock for a known time."""

    def step() -> None:
        end = time.perf_counter() + KNOWN_LOCK
        while time.perf_counter() < end:
            pass
        time.sleep(KNOWN_REST)

    return {"batch": step}
