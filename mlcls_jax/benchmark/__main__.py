"""Measures how fast a config trains on this machine, and finds the bottleneck.

mlcls-jax benchmark --config b5
mlcls-jax benchmark --config b5 --what step --sweep batch_size=16,32,64

Without --config.data.csv it generates synthetic images, so it needs no data set.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from mlcls_jax import cli
from mlcls_jax.benchmark.measure import WHAT, Plan, measure
from mlcls_jax.benchmark.report import print_figures, to_json
from mlcls_jax.benchmark.sweep import Sweep, parse_sweep, print_sweep, run_sweep, sweep_json
from mlcls_jax.config import Config
from mlcls_jax.config.aliases import DATA, add_aliases, alias_overrides
from mlcls_jax.config.loading import load_config
from mlcls_jax.data.loaders.threads import local_rows
from mlcls_jax.system import devices
from mlcls_jax.system.console import console
from mlcls_jax.system.files import check_writable
from mlcls_jax.system.invocation import command


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options, overrides = parse(argv)
    sweep = parse_sweep(options.sweep) if options.sweep else None
    sweep_overrides = [[sweep.override(value)] for value in sweep.values] if sweep else [[]]
    configs = [load_config(options.config, overrides + added) for added in sweep_overrides]
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


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the remaining arguments, which are config overrides."""
    parser = cli.Parser(
        prog=command("benchmark"),
        description="Measures how fast a config trains on this machine, and finds the bottleneck.",
        epilog="Any field of the config (see mlcls_jax/config/schema.py) can be overridden: "
        "--config.data.batch_size=64 --config.data.csv=labels.csv --config.data.images=photos",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="name of a config (b5) or path of a file")
    parser.add_argument(
        "--what",
        default="all",
        choices=WHAT,
        help="input: reading images, from files to devices; step: evaluation and the training "
        "step of each phase, on a batch that is already on the devices; train: training end to "
        "end; all (default): everything, and the bottleneck",
    )
    parser.add_argument(
        "--sweep",
        default="",
        metavar="FIELD=VALUES",
        help="repeat the benchmark for several values of a config field, such as "
        "batch_size=16,32,64",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON on stdout and text on stderr"
    )
    parser.add_argument(
        "--profile",
        default="",
        metavar="FOLDER",
        help="write a profiler trace of three more steps to this folder",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="how many times each part is measured (default 5)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="length of each measurement (default 1)"
    )
    add_aliases(parser, DATA)
    cli.add_process_options(parser)
    options, overrides = parser.parse_known_args(argv)
    overrides += alias_overrides(options, (), overrides)
    if options.sweep and options.profile:
        parser.error("--profile traces a single config; leave out --sweep")
    if options.repeats < 1 or not 0 < options.seconds < float("inf"):
        parser.error("--repeats must be at least 1, and --seconds above 0")
    return options, overrides


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
