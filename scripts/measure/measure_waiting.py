"""Measures how long a step waits for its images when the step is the bottleneck.

    python scripts/measure/measure_waiting.py                  # 224 px, synthetic photographs
    python scripts/measure/measure_waiting.py --size 456 --slack 1.1

The step is a sleep, because a step on an accelerator uses no CPU core either. It takes `--slack`
times as long as making a batch, which is measured first. The result is the share of the loop's time
that is spent in `next(batches)`. The batches are those of training, transferred in advance.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import jax

from mlcls_jax.benchmark.synthetic_images import write_images
from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch, to_devices
from mlcls_jax.data.loaders.loader import Rows, cores, train_batches
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.system.devices import make_mesh, sharded

BATCH, STEPS, WARM_UP = 32, 60, 6


def batches(folder: Path, size: int) -> Iterator[Batch]:
    """Returns training batches on the device, from images written to the folder."""
    csv, images = write_images(folder)
    made = train_batches(
        read_labels(csv, images),
        first_step=0,
        last_step=10**6,
        rows=Rows(BATCH, 0, BATCH),
        size=size,
        augment=Augment(),
        seed=0,
    )
    return to_devices(made, sharded(make_mesh(1)))


def measure(source: Iterator[Batch], step: float) -> tuple[float, float]:
    """Returns the seconds of the loop, and those of waiting for batches.

    Args:
        source: yields batches.
        step: seconds of each step.
    """
    for _ in range(WARM_UP):
        jax.block_until_ready(next(source))
    waited, began = 0.0, time.perf_counter()
    for _ in range(STEPS):
        requested = time.perf_counter()
        jax.block_until_ready(next(source))
        waited += time.perf_counter() - requested
        time.sleep(step)
    return time.perf_counter() - began, waited


def main() -> None:
    """Measures and prints the share of time spent waiting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=224, help="image size in pixels (default 224)")
    parser.add_argument(
        "--slack", type=float, default=1.25, help="step time / time to make a batch (default 1.25)"
    )
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        source = batches(Path(folder), options.size)
        each = measure(source, 0.0)[0] / STEPS
        total, waited = measure(source, options.slack * each)
    print(
        f"{options.size} px, {cores()} cores: a batch of {BATCH} takes {1e3 * each:.1f} ms; with "
        f"steps of {1e3 * options.slack * each:.1f} ms the loop waits {100 * waited / total:.2f} % "
        "of its time"
    )


if __name__ == "__main__":
    main()
