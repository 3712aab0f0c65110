"""The process of one side of a comparison, which runs steps on request.

    python scripts/peers/peer_worker.py MODULE ARGUMENTS

MODULE has `versions()`, which returns the versions of its libraries as text, and
`build(*ARGUMENTS)`, which returns {name: step}; ARGUMENTS is a JSON list. A step takes no argument
and returns when its work is done.

For compare_peers.py it is `build(variant, size, batch, dropout)` with two steps on one uint8 batch
that is already in memory: "forward" returns NumPy logits [batch, 80], and "train" returns the loss
of one AdamW step. For compare_input.py it is `build(side, folder, size, batch)` with the step
"batch", which returns the next `batch` images of the folder.

The first line on stdout is {"versions": …}. Each line on stdin, such as "train 2.0", names a step
and seconds. The step is repeated at least once and until the seconds are over, and the reply is one
line on stdout.
"""

import argparse
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

NUM_CLASSES = 80  # as COCO

Step = Callable[[], Any]


def random_batch(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the batch of every side: uint8 [batch, size, size, 3] and int8 labels [batch, 80]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return images, rng.integers(0, 2, (batch, NUM_CLASSES), dtype=np.int8)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def peak_memory() -> int:
    """Returns the peak resident memory of this process in bytes.

    It is read from /proc, because getrusage includes the peak of the parent process.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise ValueError("/proc/self/status has no VmHWM; measure on Linux")
    return 1024 * int(found[1])


def repeat(step: Step, least_seconds: float) -> dict[str, float]:
    """Repeats a step for the given time, and returns {"steps", "seconds", "cpu_seconds"}."""
    start, cpu_start, steps = time.perf_counter(), time.process_time(), 0
    while True:
        step()
        steps += 1
        seconds = time.perf_counter() - start
        if seconds >= least_seconds:
            cpu = time.process_time() - cpu_start
            return {"steps": steps, "seconds": seconds, "cpu_seconds": cpu}


def serve(steps: dict[str, Step], requests: Iterable[str], replies: TextIO) -> None:
    """Answers each request "what seconds" with a line of `repeat`'s figures and "peak_bytes"."""
    for request in requests:
        what, least_seconds = request.split()
        reply = repeat(steps[what], float(least_seconds)) | {"peak_bytes": peak_memory()}
        print(json.dumps(reply), file=replies, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", help="module with versions() and build()")
    parser.add_argument("arguments", type=json.loads, help="JSON list of arguments for build()")
    options = parser.parse_args()
    # Libraries may print to stdout, so the replies use another descriptor.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = importlib.import_module(options.module)
    steps = side.build(*options.arguments)
    print(json.dumps({"versions": side.versions()}), file=replies, flush=True)
    serve(steps, sys.stdin, replies)


if __name__ == "__main__":
    main()
