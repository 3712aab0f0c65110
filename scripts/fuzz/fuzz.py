"""Hostile inputs by the million, to find what the readers of this package cannot take.

    python scripts/fuzz/fuzz.py --minutes 30 [--targets csv,weights] [--seed N]

Targets are images, label CSVs, overrides of a config, weight files, the files of a run, and the
arguments of `predict`.  Each input is accepted, or refused with one line for its user.  A failure
is anything else: another exception, a crash, gigabytes, no end; a program that is started, a
connection, or a file that is written outside of the folder of the test.  Its input is kept and
named.  Inputs run in processes, which a failure may take along.  Ends with 1 if there was one.
"""

import argparse
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS
from fuzz_work import ACCEPTED, CURRENT, REFUSED, TRIED, Limits, Target, work

POLL = 1.0  # seconds


@dataclass
class Worker:
    """A process and what it is at. idle: seconds that it was seen without progress."""

    process: Any
    connection: multiprocessing.connection.Connection
    counts: Any
    folder: Path
    tried: int = -1
    idle: float = 0.0


@dataclass
class Fuzz:
    """A run of one target: its settings, and what it has found so far.

    start: a new worker. out: folder for the inputs that fail.
    """

    name: str
    start: Callable[[], Worker]
    limits: Limits
    seed: int
    out: Path
    batches: int = 0
    accepted: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """Inputs."""
        return self.accepted + self.refused + len(self.failures)

    def give(self, worker: Worker) -> None:
        """The next inputs to run."""
        self.batches += 1
        worker.connection.send(self.batches)

    def fail(self, worker: Worker, what: str) -> None:
        """Keeps the input that a worker is at, and prints what it did."""
        if not (worker.folder / CURRENT).exists():
            raise RuntimeError(f"a process of {self.name} ended before its first input: {what}")
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.name}_{self.seed}_{len(self.failures)}.bin"
        shutil.copyfile(worker.folder / CURRENT, path)
        self.failures.append(f"{path}: {' '.join(what.split())}")
        print(self.failures[-1], flush=True)

    def ended(self, worker: Worker) -> None:
        """Notes the input at which a worker ended."""
        worker.process.join()
        self.fail(worker, _death(worker.process.exitcode, worker.idle >= self.limits.stuck))
        self.count(worker)

    def count(self, worker: Worker) -> None:
        """Adds what a worker has counted to the sums."""
        self.accepted += worker.counts[ACCEPTED]
        self.refused += worker.counts[REFUSED]
        shutil.rmtree(worker.folder, ignore_errors=True)

    def __str__(self) -> str:
        """One line: what was tried, and what came of it."""
        return (
            f"{self.name}: {self.tried:,} inputs, {self.accepted:,} accepted, "
            f"{self.refused:,} refused, {len(self.failures)} failures"
        )


def _death(exitcode: int, was_stuck: bool) -> str:
    if was_stuck:
        return "hangs, waiting for something"
    if exitcode == -signal.SIGPROF:
        return "hangs, computing"
    return f"crashes ({signal.Signals(-exitcode).name if exitcode < 0 else exitcode})"


def start_worker(context, target: Target, seed: int, limits: Limits) -> Worker:
    """A process that waits for inputs."""
    ours, theirs = context.Pipe()
    counts = context.RawArray("q", [-1, 0, 0])
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    arguments = (theirs, counts, target, seed, folder, limits)
    process = context.Process(target=work, args=arguments, daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    return Worker(process, ours, counts, folder)


def run(
    target: Target,
    minutes: float,
    seed: int,
    out: Path,
    workers: int,
    limits: Limits | None = None,
) -> Fuzz:
    """Runs batches of inputs until the time is over, at least one for each worker."""
    limits = limits or Limits()
    # A fork would take locks of other threads along.
    context = multiprocessing.get_context("spawn")
    start = partial(start_worker, context, target, seed, limits)
    fuzz = Fuzz(target.name, start, limits, seed, out)
    running = [start() for _ in range(workers)]
    for worker in running:
        fuzz.give(worker)
    end = time.monotonic() + 60 * minutes
    while running:
        ready = multiprocessing.connection.wait([w.connection for w in running], POLL)
        going_on = []
        for worker in running:
            if worker.connection in ready:
                going_on += _listen(worker, fuzz, time.monotonic() < end)
            else:
                _watch(worker, limits)
                going_on.append(worker)
        running = going_on
    return fuzz


def _listen(worker: Worker, fuzz: Fuzz, go_on: bool) -> list[Worker]:
    """Reads a message of a worker: the worker that goes on, if one does."""
    try:
        message = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        fuzz.ended(worker)
        if not go_on:
            return []
        worker = fuzz.start()
        fuzz.give(worker)
        return [worker]
    if message:
        fuzz.fail(worker, message)
        worker.connection.send(None)
    elif go_on:
        fuzz.give(worker)
    else:
        worker.connection.send(None)
        worker.process.join()
        fuzz.count(worker)
        return []
    return [worker]


def _watch(worker: Worker, limits: Limits) -> None:
    """Ends a worker that was seen at the same input for too long."""
    is_new = worker.tried != worker.counts[TRIED] or worker.counts[TRIED] < 0
    worker.tried = worker.counts[TRIED]
    # Times that somebody looked, not the clock: this process may be paused as well.
    worker.idle = 0.0 if is_new else worker.idle + POLL
    if worker.idle >= limits.stuck:
        worker.process.kill()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Hostile inputs to all that reads files.")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all targets together")
    parser.add_argument("--targets", default=",".join(TARGETS), help="some of them (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("fuzz_failures"), help="for such inputs")
    options = parser.parse_args(arguments)
    names = options.targets.split(",")
    if unknown := set(names) - set(TARGETS):
        parser.error(f"--targets: no {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    out, minutes = options.out.absolute(), options.minutes / len(names)
    tried = failures = 0
    for name in names:
        fuzz = run(TARGETS[name], minutes, options.seed, out, options.workers)
        print(fuzz, flush=True)
        tried, failures = tried + fuzz.tried, failures + len(fuzz.failures)
    print(f"total: {tried:,} inputs, {failures} failures (seed {options.seed})")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
