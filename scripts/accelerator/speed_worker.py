"""The process of one side of part 3: runs steps on request, as peer_process.Peer asks.

    python scripts/accelerator/speed_worker.py SIDE VARIANT SIZE

SIDE is a module with `versions()` and `build(what, variant, size, batch)`, which returns a function
that takes a number of steps, waits for the last of them and returns the seconds, and a dictionary
of what is known about a step. The first line on stdout is {"versions": …}. A request is a line
"WHAT@BATCH SECONDS"; the reply is one line of JSON, with "error" if it failed.
"""

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

Run = Callable[[int], float]


def measure(run: Run, seconds: float) -> dict[str, float]:
    """Returns {"steps", "seconds"} of about that many seconds; 0 runs two steps, which compile."""
    if not seconds:
        return {"steps": 2, "seconds": run(2)}
    steps, taken = 1, run(1)
    while taken < seconds / 4:
        steps = min(4 * steps, max(steps + 1, round(steps * seconds / max(taken, 1e-6) / 2)))
        taken = run(steps)
    steps = max(1, round(steps * seconds / taken))
    return {"steps": steps, "seconds": run(steps)}


def serve(side: Any, setting: tuple[str, int], requests: Iterable[str], replies: TextIO) -> None:
    """Answers requests; only the last step that was asked for is kept in memory."""
    kept: tuple[str, Run, dict[str, Any]] | None = None
    for request in requests:
        name, seconds = request.split()
        try:
            if kept is None or kept[0] != name:
                kept = None
                gc.collect()
                what, batch = name.split("@")
                began = time.perf_counter()
                run, about = side.build(what, *setting, int(batch))
                run(1)
                first = time.perf_counter() - began
                kept = name, run, {**about, "batch": int(batch), "start_seconds": first}
            reply = measure(kept[1], float(seconds)) | kept[2] | side.memory()
        except Exception as error:  # such as too little memory; the next request may be smaller
            kept = None
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        print(json.dumps(reply), file=replies, flush=True)


def main() -> None:
    """Serves requests until stdin ends."""
    name, variant, size = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")  # libraries may print to stdout
    os.dup2(2, 1)
    side = importlib.import_module(name)
    print(json.dumps({"versions": side.versions()}), file=replies, flush=True)
    serve(side, (variant, int(size)), sys.stdin, replies)


if __name__ == "__main__":
    main()
