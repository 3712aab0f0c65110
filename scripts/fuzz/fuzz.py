"""Sends damaged and hostile inputs to everything that reads files or arguments.

    python scripts/fuzz/fuzz.py --minutes 30 [--targets csv,weights] [--seed N]

Targets are images, label CSVs, config overrides, weight files, the files of a run, and the
arguments of `predict`. Each input must be accepted, or refused with a one-line message for the
user. Anything else is a failure: another exception, a crash, a hang, gigabytes of memory, a started
program, a connection, or a file written outside the test folder. The input of a failure is stored
and its path is printed. Inputs run in worker processes, which a failure may end. The exit code is 1
if there was a failure.
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
    """A worker process.

    Attributes:
        process: the process.
        connection: pipe to the process.
        counts: shared counters; see fuzz_work.py.
        folder: working folder of the process.
        tried: the last seen count of tried inputs.
        idle: seconds without progress.
    """

    process: Any
    connection: multiprocessing.connection.Connection
    counts: Any
    folder: Path
    tried: int = -1
    idle: float = 0.0


@dataclass
class Fuzz:
    """A run of one target: its settings and its results so far.

    Attributes:
        name: name of the target.
        start: starts a new worker.
        limits: limits for each input.
        seed: random seed.
        out: folder for the inputs that fail.
        batches: number of batches given to workers.
        accepted: number of accepted inputs.
        refused: number of inputs refused with a line for the user.
        failures: "path: reason" for each failure.
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
        """Number of inputs."""
        return self.accepted + self.refused + len(self.failures)

    def give(self, worker: Worker) -> None:
        """Gives the next batch of inputs to a worker."""
        self.batches += 1
        worker.connection.send(self.batches)

    def fail(self, worker: Worker, reason: str) -> None:
        """Stores the current input of a worker, and prints why it failed."""
        if not (worker.folder / CURRENT).exists():
            raise RuntimeError(f"a process of {self.name} ended before its first input: {reason}")
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.name}_{self.seed}_{len(self.failures)}.bin"
        shutil.copyfile(worker.folder / CURRENT, path)
        self.failures.append(f"{path}: {' '.join(reason.split())}")
        print(self.failures[-1], flush=True)

    def ended(self, worker: Worker) -> None:
        """Stores the input that ended a worker."""
        worker.process.join()
        self.fail(worker, _death(worker.process.exitcode, worker.idle >= self.limits.stuck))
        self.count(worker)

    def count(self, worker: Worker) -> None:
        """Adds the counts of a worker to the totals and deletes its folder."""
        self.accepted += worker.counts[ACCEPTED]
        self.refused += worker.counts[REFUSED]
        shutil.rmtree(worker.folder, ignore_errors=True)

    def __str__(self) -> str:
        """Returns the counts in one line."""
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
    """Starts a process that waits for inputs."""
    ours, theirs = context.Pipe()
    counts = context.RawArray("q", [-1, 0, 0])
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    arguments = (theirs, counts, target, seed, folder, limits)
    process = context.Process(target=work, args=arguments, daemon=True)
    process.start()
    theirs.close()  # so that the pipe closes when the process ends
    return Worker(process, ours, counts, folder)


def run(
    target: Target,
    minutes: float,
    seed: int,
    out: Path,
    workers: int,
    limits: Limits | None = None,
) -> Fuzz:
    """Runs batches of inputs until the time is over, at least one per worker.

    Args:
        target: where the inputs go.
        minutes: time after which no new batch starts.
        seed: random seed of the inputs.
        out: folder for the inputs that fail.
        workers: number of processes.
        limits: limits for each input; None takes the defaults.
    """
    limits = limits or Limits()
    # A forked process would inherit locks of other threads.
    # Arrow, which pandas reads text with if it is there, would reserve gigabytes of addresses.
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    context = multiprocessing.get_context("spawn")
    start = partial(start_worker, context, target, seed, limits)
    fuzz = Fuzz(target.name, start, limits, seed, out)
    running = [start() for _ in range(workers)]
    for worker in running:
        fuzz.give(worker)
    end = time.monotonic() + 60 * minutes
    while running:
        ready = multiprocessing.connection.wait([w.connection for w in running], POLL)
        still_running = []
        for worker in running:
            if worker.connection in ready:
                still_running += _listen(worker, fuzz, time.monotonic() < end)
            else:
                _watch(worker, limits)
                still_running.append(worker)
        running = still_running
    return fuzz


def _listen(worker: Worker, fuzz: Fuzz, has_time: bool) -> list[Worker]:
    """Reads a message of a worker, and returns the worker that continues, if any."""
    try:
        message = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        fuzz.ended(worker)
        if not has_time:
            return []
        worker = fuzz.start()
        fuzz.give(worker)
        return [worker]
    if message:
        fuzz.fail(worker, message)
        worker.connection.send(None)
    elif has_time:
        fuzz.give(worker)
    else:
        worker.connection.send(None)
        worker.process.join()
        fuzz.count(worker)
        return []
    return [worker]


def _watch(worker: Worker, limits: Limits) -> None:
    """Kills a worker that makes no progress for too long."""
    is_new = worker.tried != worker.counts[TRIED] or worker.counts[TRIED] < 0
    worker.tried = worker.counts[TRIED]
    # Polls are counted instead of wall time, because this process may be paused too.
    worker.idle = 0.0 if is_new else worker.idle + POLL
    if worker.idle >= limits.stuck:
        worker.process.kill()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="for all targets together")
    parser.add_argument(
        "--targets",
        default=",".join(TARGETS),
        help=f"comma-separated (default: {','.join(TARGETS)})",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the inputs")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz_failures"), help="folder for inputs that fail"
    )
    options = parser.parse_args(arguments)
    names = options.targets.split(",")
    if unknown := set(names) - set(TARGETS):
        parser.error(f"--targets: unknown {', '.join(unknown)}; choose from {', '.join(TARGETS)}")
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
