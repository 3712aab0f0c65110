"""Measures how long a step waits for its images when the step is the bottleneck.

    python scripts/measure/measure_waiting.py                  # 224 px, synthetic photographs
    python scripts/measure/measure_waiting.py --size 456 --slack 1.1
    XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
        python scripts/measure/measure_waiting.py --loader tf_data

The step is a sleep, because a step on an accelerator uses no CPU core either. It takes `--slack`
times as long as making a batch, which is measured first. The batches are those of training, put on
all devices in advance. The result comes from a trace of JAX's profiler: the share of the loop's
time in `next(batches)` and in waiting for the transfer to the devices, and the longest wait of
each.
"""

import argparse
import gzip
import json
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import jax

from mlcls_jax.benchmark.synthetic_images import write_images
from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch, to_devices
from mlcls_jax.data.loaders.loader import LOADERS, Reader, Rows, cores, train_batches
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.system.devices import make_mesh, sharded

BATCH, STEPS, WARM_UP = 32, 60, 6
WAIT, TRANSFER, STEP = "wait for the batch", "wait for its transfer", "step"  # in the trace


def batches(folder: Path, size: int, loader: str) -> Generator[Batch, None, None]:
    """Returns training batches on the devices, from images written to the folder."""
    csv, images = write_images(folder)
    made = train_batches(
        read_labels(csv, images),
        first_step=0,
        last_step=10**6,
        rows=Rows(BATCH, 0, BATCH),
        size=size,
        augment=Augment(),
        seed=0,
        reader=Reader(loader=loader),
    )
    return to_devices(made, sharded(make_mesh()))


def run(source: Iterator[Batch], step: float, steps: int) -> float:
    """Runs a loop whose steps sleep, and returns its seconds.

    Args:
        source: yields batches.
        step: seconds of each step.
        steps: the number of steps.
    """
    began = time.perf_counter()
    for _ in range(steps):
        with jax.profiler.TraceAnnotation(WAIT):
            batch = next(source)
        with jax.profiler.TraceAnnotation(TRANSFER):
            jax.block_until_ready(batch)
        with jax.profiler.TraceAnnotation(STEP):
            time.sleep(step)
            del batch  # a virtual device frees its memory on the CPU
    return time.perf_counter() - began


def waits(folder: Path, name: str) -> list[float]:
    """Returns the seconds of each event of that name in a trace."""
    (file,) = folder.glob("**/*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return [event["dur"] / 1e6 for event in events if event.get("name") == name]


def main() -> None:
    """Measures and prints the share of time spent waiting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=224, help="image size in pixels (default 224)")
    parser.add_argument("--loader", choices=tuple(LOADERS), default="threads")
    parser.add_argument(
        "--slack", type=float, default=1.25, help="step time / time to make a batch (default 1.25)"
    )
    options = parser.parse_args()
    with TemporaryDirectory() as folder, TemporaryDirectory() as trace:
        source = batches(Path(folder), options.size, options.loader)
        run(source, 0.0, WARM_UP)
        each = run(source, 0.0, STEPS) / STEPS
        run(source, options.slack * each, WARM_UP)
        with jax.profiler.trace(trace):
            total = run(source, options.slack * each, STEPS)
        waited, moved = waits(Path(trace), WAIT), waits(Path(trace), TRANSFER)
        source.close()  # before the images are removed
    print(
        f"{options.loader}, {options.size} px, {cores()} cores, {jax.device_count()} devices: a "
        f"batch of {BATCH} takes {1e3 * each:.1f} ms; with steps of "
        f"{1e3 * options.slack * each:.1f} ms the loop waits {100 * sum(waited) / total:.2f} % of "
        f"its time, {1e3 * max(waited):.1f} ms at most, and {100 * sum(moved) / total:.2f} % for "
        f"transfers, {1e3 * max(moved):.1f} ms at most"
    )


if __name__ == "__main__":
    main()
