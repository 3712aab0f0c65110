"""Measures how fast a config trains on this machine, and finds the bottleneck.

mlcls-jax benchmark --config b5
mlcls-jax benchmark --config b5 --what step --sweep batch_size=16,32,64

Without --config.data.csv it generates synthetic images, so it needs no data set.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlcls_jax.system import heap

if __name__ == "__main__":
    heap.restart_with_heap()

from mlcls_jax.options.benchmark import Sweep, check, configs_of, parse

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

from mlcls_jax import cli
from mlcls_jax.benchmark.measure import Plan, measure
from mlcls_jax.benchmark.report import print_figures, to_json
from mlcls_jax.benchmark.sweep import print_sweep, run_sweep, sweep_json
from mlcls_jax.config import Config
from mlcls_jax.data.loaders.loader import local_rows
from mlcls_jax.system import devices
from mlcls_jax.system.console import console
from mlcls_jax.system.files import check_writable


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options, overrides = parse(argv)
    sweep, configs = configs_of(options, overrides)
    trace = _create_writable(options.profile) if options.profile else None
    cli.start_devices(options, configs[0].distributed)
    console.stderr = options.json  # stdout holds JSON only
    for config in configs:  # all checks come before the first measurement
        local_rows(config.data.batch_size, "data.batch_size")
    plan = Plan(options.what, options.seconds, options.repeats, trace)
    result = _benchmark(configs, sweep, plan)
    if options.json and devices.is_first_process():
        print(json.dumps(result, indent=2, allow_nan=False))
    if trace:
        console.print(
            f"Trace: {trace}. To view it, run tensorboard --logdir {trace} (needs pip install "
            "tensorboard xprof), or open its *.trace.json.gz at https://ui.perfetto.dev"
        )
    return 0


def _benchmark(configs: list[Config], sweep: Sweep | None, plan: Plan) -> dict[str, Any]:
    """Measures the configs, prints the result, and returns it as JSON."""
    with tempfile.TemporaryDirectory(prefix="mlcls_jax_") as folder:
        if sweep is None:
            figures = measure(configs[0], plan, Path(folder))
            print_figures(figures)
            return to_json(figures)
        by_value = dict(zip(sweep.values, configs, strict=True))

        def measure_value(value: str):
            console.print(f"{sweep.field}={value}")
            return measure(by_value[value], plan, Path(folder))

        rows = run_sweep(sweep, measure_value)
    print_sweep(sweep, rows)
    return sweep_json(sweep, rows)


def _create_writable(folder: str) -> Path:
    """Creates the folder of --profile; raises ValueError if it takes no files."""
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--profile {folder} cannot be created: {error.strerror}") from error
    check_writable(path)
    return path


if __name__ == "__main__":
    cli.run(main)
