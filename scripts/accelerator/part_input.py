"""Part 6: training end to end from JPEGs with each loader, and what the benchmark says of it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from part_record import Record, options_of

LOADERS = {"threads": "simplejpeg", "tf_data": "tensorflow", "grain": "grain"}


def benchmark(loader: str, variant: str, batch: int, small: bool, limit: float) -> dict[str, Any]:
    """Returns the JSON of `mlcls-jax benchmark` with a loader.

    Raises:
        RuntimeError: the command failed; the message has the end of its output.
    """
    options = ["--config.model.image_size=32", "--seconds", "0.01", "--repeats", "1"]
    command = [sys.executable, "-m", "mlcls_jax", "benchmark", "--config", variant, "--json"]
    command += [f"--config.data.loader={loader}", f"--config.data.batch_size={batch}"]
    done = subprocess.run(
        command + (options if small else []),
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=max(limit, 5.0),
    )
    if done.returncode:
        raise RuntimeError(f"ended with {done.returncode}: {done.stderr[-300:]}")
    return json.loads(done.stdout)


def main() -> None:
    """Measures each loader that is installed."""
    options = options_of(__doc__)
    record, small = Record("input", options), options.rehearse
    variant, batch = ("lite0", 8) if small else ("b0", 112)
    record.plan(LOADERS)
    for loader, package in LOADERS.items():
        if find_spec(package) is None:
            record.fail(loader, f"{package} is not installed")
        elif small and loader != "threads":
            record.fail(loader, "left out of a rehearsal")
        else:
            record.measure(
                loader, lambda name=loader: benchmark(name, variant, batch, small, record.left), 10
            )


if __name__ == "__main__":
    main()
