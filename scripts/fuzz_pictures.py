"""Damaged pictures by the million through the pipeline's decoding, to find what it can't take.

    python scripts/fuzz_pictures.py --minutes 30 [--seed N] [--workers N] [--out FOLDER]

A picture is decoded, or it is refused with a PictureError.  A failure is anything else: another
exception, a crash, a decoder that takes gigabytes or that does not come back.  Its input is
written to the folder and named.  Inputs run in worker processes, which a failure may take along.
Ends with 1 if there was a failure.
"""

import argparse
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_inputs import damaged_file

from mlcls_jax.config import Augment
from mlcls_jax.data.decoding import PictureError, open_picture
from mlcls_jax.data.images import eval_picture, train_picture
from mlcls_jax.data.order import generator

SIZE = 64
MAX_PIXELS = 4_000_000
BATCH = 1000  # inputs that a worker is given at a time
MEMORY = 1 << 30  # bytes that decoding such a picture never needs, beside the libraries
STUCK = 300  # seconds after which a worker that waits for something is ended
POLL = 1.0  # seconds
NUMBER, DECODED, REFUSED = range(3)  # of a worker's counts
AUGMENTS = (
    Augment(train_resize="random_crop", eval_resize="center_crop"),
    Augment(interpolation="bicubic"),
)

Exercise = Callable[[bytes, int], Any]


def exercise(contents: bytes, number: int) -> None:
    """What the pipeline does with the bytes of a file; PictureError where it refuses them."""
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    options: dict[str, Any] = {"size": SIZE, "augment": AUGMENTS[number % len(AUGMENTS)]}
    picture = open_picture(contents, MAX_PIXELS)
    train_picture(picture, generator(0, 0, number), out=out, **options)
    eval_picture(picture, out=out, **options)


@dataclass(frozen=True)
class Limits:
    """Of one input. seconds: of computing. stuck: seconds without any. memory: bytes."""

    seconds: float = 10.0
    stuck: float = STUCK
    memory: int = MEMORY


def work(connection, counts, exercise: Exercise, seed: int, limits: Limits) -> None:
    """Runs ranges of inputs until there are no more; the body of a worker process."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and libjpeg write there
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    while (numbers := connection.recv()) is not None:
        for number in numbers:
            counts[NUMBER] = number
            contents = damaged_file(seed, number)
            # Computing time, not the clock: the process may be paused.  It ends the process.
            signal.setitimer(signal.ITIMER_PROF, limits.seconds)
            try:
                exercise(contents, number)
                counts[DECODED] += 1
            except PictureError as error:
                if "\n" in str(error) or len(str(error)) > 400:
                    connection.send((number, f"no line for a user: {error}"))
                else:
                    counts[REFUSED] += 1
            except BaseException as error:
                connection.send((number, f"{type(error).__name__}: {error}"))
            signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(None)


@dataclass
class Worker:
    """A process and what it is at. idle: seconds that it was seen without progress."""

    process: Any
    connection: multiprocessing.connection.Connection
    counts: Any
    numbers: range = range(0)
    number: int = -1
    idle: float = 0.0

    def give(self, numbers: range) -> None:
        """The next inputs to run."""
        self.numbers = numbers
        self.connection.send(numbers)


@dataclass
class Fuzz:
    """A run: its settings, and what it has found so far.

    start: a new worker. out: folder for the inputs that fail.
    """

    start: Callable[[], Worker]
    limits: Limits
    seed: int
    out: Path
    next_number: int = 0
    decoded: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    def take(self) -> range:
        """The next inputs."""
        self.next_number += BATCH
        return range(self.next_number - BATCH, self.next_number)

    def fail(self, number: int, what: str) -> None:
        """Writes an input and prints what it did."""
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.seed}_{number}.bin"
        path.write_bytes(damaged_file(self.seed, number))
        self.failures.append(f"{path}: {' '.join(what.split())}")
        print(self.failures[-1], flush=True)

    def ended(self, worker: Worker) -> Worker:
        """Notes the input at which a worker ended; another one goes on behind it."""
        worker.process.join()
        number = worker.counts[NUMBER]
        self.fail(number, _death(worker.process.exitcode, worker.idle >= self.limits.stuck))
        self.count(worker)
        another = self.start()
        another.give(range(number + 1, worker.numbers.stop))
        return another

    def count(self, worker: Worker) -> None:
        """Adds what a worker has counted to the sums."""
        self.decoded += worker.counts[DECODED]
        self.refused += worker.counts[REFUSED]


def _death(exitcode: int, was_stuck: bool) -> str:
    if was_stuck:
        return "hangs, waiting for something"
    if exitcode == -signal.SIGPROF:
        return "hangs, computing"
    return f"crashes ({signal.Signals(-exitcode).name if exitcode < 0 else exitcode})"


def start_worker(context, exercise: Exercise, seed: int, limits: Limits) -> Worker:
    """A process that waits for inputs."""
    ours, theirs = context.Pipe()
    counts = context.RawArray("q", 3)
    arguments = (theirs, counts, exercise, seed, limits)
    process = context.Process(target=work, args=arguments, daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    return Worker(process, ours, counts)


def run(
    minutes: float,
    seed: int,
    out: Path,
    workers: int,
    exercise: Exercise = exercise,
    limits: Limits | None = None,
) -> Fuzz:
    """Runs inputs 0, 1, 2, ... until the time is over."""
    limits = limits or Limits()
    # A fork would take locks of other threads along.
    context = multiprocessing.get_context("spawn")
    start = partial(start_worker, context, exercise, seed, limits)
    fuzz = Fuzz(start, limits, seed, out)
    pool = [start() for _ in range(workers)]
    for worker in pool:
        worker.give(fuzz.take())
    end, running = time.monotonic() + 60 * minutes, list(pool)
    while running:
        ready = multiprocessing.connection.wait([w.connection for w in running], POLL)
        for i, worker in enumerate(running):
            if worker.connection in ready:
                running[i] = _listen(worker, fuzz, time.monotonic() < end)
            elif not ready:
                _watch(worker, limits)
        running = [worker for worker in running if worker is not None]
    return fuzz


def _listen(worker: Worker, fuzz: Fuzz, go_on: bool) -> Any:
    """Reads a message of a worker: the worker that goes on, or None at the end."""
    try:
        message = worker.connection.recv()
    except EOFError:
        return fuzz.ended(worker)
    if message:
        fuzz.fail(*message)
    elif go_on:
        worker.give(fuzz.take())
    else:
        fuzz.count(worker)
        worker.connection.send(None)
        worker.process.join()
        return None
    return worker


def _watch(worker: Worker, limits: Limits) -> None:
    """Ends a worker that was seen at the same input for too long."""
    is_new = worker.number != worker.counts[NUMBER]
    worker.number = worker.counts[NUMBER]
    # Times that somebody looked, not the clock: this process may be paused as well.
    worker.idle = 0.0 if is_new else worker.idle + POLL
    if worker.idle >= limits.stuck:
        worker.process.kill()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Damaged pictures through the decoding.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("fuzz_failures"), help="for such inputs")
    options = parser.parse_args(arguments)
    fuzz = run(options.minutes, options.seed, options.out, options.workers)
    failures = len(fuzz.failures)
    print(
        f"{fuzz.decoded + fuzz.refused + failures:,} inputs, {fuzz.decoded:,} pictures decoded, "
        f"{fuzz.refused:,} refused, {failures} failures (seed {options.seed})"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
