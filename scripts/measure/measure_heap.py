"""Measures training on CPU with and without the settings of glibc that the commands make, in turns.

    python scripts/measure/measure_heap.py [--variant b0] [--batch-size 16] [--rounds 4]

Runs `mlcls-jax benchmark --what step` in new processes, with MLCLS_JAX_HEAP=0 and without it.
Prints images/s of the step that trains everything, and the peak memory of the process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

HEAP = {"with": "1", "without": "0"}  # values of MLCLS_JAX_HEAP


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="b0", help="name of a config")
    parser.add_argument("--batch-size", type=int, default=16, help="images in a step")
    parser.add_argument("--rounds", type=int, default=4, help="turns of both")
    options, overrides = parser.parse_known_args()
    command = ["--config", options.variant, "--batch-size", str(options.batch_size), *overrides]
    speeds: dict[str, list[float]] = {name: [] for name in HEAP}
    peaks: dict[str, list[float]] = {name: [] for name in HEAP}
    for _ in range(options.rounds):
        for name in HEAP:
            speed, peak = measure(name, command)
            speeds[name].append(speed)
            peaks[name].append(peak)
            print(f"{name}: {speed:.2f} images/s, {peak:.2f} GB", file=sys.stderr)
    ratios = [a / b for a, b in zip(speeds["with"], speeds["without"], strict=True)]
    print("| | images/s, training everything | peak memory, GB |\n|---|---|---|")
    for name in HEAP:
        print(f"| {name} | {spread(speeds[name])} | {spread(peaks[name])} |")
    print(f"\nratio of the speeds: {spread(ratios)}")
    return 0


def measure(name: str, command: Sequence[str]) -> tuple[float, float]:
    """Returns images per second of the last phase's step, and the peak memory in GB."""
    line = [sys.executable, "-m", "mlcls_jax.benchmark", "--what", "step", "--json", *command]
    env = dict(os.environ, MLCLS_JAX_HEAP=HEAP[name])
    env.pop("GLIBC_TUNABLES", None)
    output = subprocess.run(line, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return parse(output)


def parse(output: str) -> tuple[float, float]:
    """Returns the two numbers from what the benchmark prints."""
    result = json.loads(output)
    rate = result["programs"][-1]["step"]["images_per_second"]["median"]
    return rate, result["peak_rss"] / 1e9


def spread(values: Sequence[float]) -> str:
    """Returns the median, least and most of values."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
