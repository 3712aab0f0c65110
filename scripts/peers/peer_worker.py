"""One side of a comparison in a process of its own: runs steps when told to.

    python scripts/peers/peer_worker.py MODULE ARGUMENTS

MODULE has `versions()`, the names of its libraries as text, and `build(*ARGUMENTS)`, which returns
{"name of what is done": step}; ARGUMENTS is a JSON list.  A step takes no argument, and when it
returns, the work is done.

For compare_peers.py it is `build(variant, size, batch, dropout)` with the steps "forward", NumPy
logits [batch, 80] of one uint8 batch that is already in memory, and "train", the loss of one AdamW
step on it.  For compare_input.py it is `build(side, folder, size, batch)` with the step "batch",
which hands over the next `batch` images of the folder.

The first line on stdout is {"versions": …}.  Then, for each line "train 2.0" on stdin, one with
what was done; at least one step, and as many as it takes to fill the seconds.
"""

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

NUM_CLASSES = 80  # of COCO

Step = Callable[[], Any]


def random_batch(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The same on every side: uint8 [batch, size, size, 3] and int8 labels [batch, 80]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return images, rng.integers(0, 2, (batch, NUM_CLASSES), dtype=np.int8)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def peak_memory() -> int:
    """The most bytes that this process had resident.

    From /proc and not from getrusage, whose maximum a process inherits from the one that started
    it.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise ValueError("/proc/self/status has no VmHWM; measure on Linux")
    return 1024 * int(found[1])


def repeat(step: Step, least_seconds: float) -> tuple[int, float]:
    """Steps done, and the seconds that they took."""
    start, steps = time.perf_counter(), 0
    while True:
        step()
        steps += 1
        seconds = time.perf_counter() - start
        if seconds >= least_seconds:
            return steps, seconds


def serve(steps: dict[str, Step], requests: Iterable[str], replies: TextIO) -> None:
    """Answers each "what seconds" with a line {"steps", "seconds", "peak_bytes"}."""
    for request in requests:
        what, least_seconds = request.split()
        done, seconds = repeat(steps[what], float(least_seconds))
        reply = {"steps": done, "seconds": seconds, "peak_bytes": peak_memory()}
        print(json.dumps(reply), file=replies, flush=True)


def main() -> None:
    # Libraries may print to stdout: the replies have a descriptor of their own.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, arguments = sys.argv[1:]
    side = importlib.import_module(name)
    steps = side.build(*json.loads(arguments))
    print(json.dumps({"versions": side.versions()}), file=replies, flush=True)
    serve(steps, sys.stdin, replies)


if __name__ == "__main__":
    main()
