"""Measures how fast a config trains here, and says what bounds it.

python -m mlcls_jax.benchmark --config configs/b5.py
python -m mlcls_jax.benchmark --config configs/b5.py --what step --sweep batch_size=16,32,64

Without --config.data.csv it makes images up, so that it runs right after the installation.
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
from mlcls_jax.config.loading import load_config
from mlcls_jax.data.loaders.threads import local_rows
from mlcls_jax.system import devices
from mlcls_jax.system.console import console
from mlcls_jax.system.files import check_writable


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    options, overrides = parse(argv)
    sweep = parse_sweep(options.sweep) if options.sweep else None
    added = [[sweep.override(value)] for value in sweep.values] if sweep else [[]]
    configs = [load_config(options.config, [*overrides, *more]) for more in added]
    trace = _writable(options.profile) if options.profile else None
    cli.start_devices(options, configs[0])
    console.stderr = options.json  # stdout is JSON and nothing else
    for config in configs:  # before the first is measured
        local_rows(config.data.batch_size, "data.batch_size")
    plan = Plan(options.what, options.seconds, options.repeats, trace)
    result = _benchmark(configs, sweep, plan)
    if options.json and devices.is_first_process():
        print(json.dumps(result, indent=2, allow_nan=False))
    if trace:
        console.print(
            f"Trace: in {trace}; tensorboard --logdir {trace} shows it (pip install tensorboard "
            "xprof), and https://ui.perfetto.dev opens its *.trace.json.gz"
        )
    return 0


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, checked, and the config overrides among the arguments."""
    parser = cli.Parser(
        prog="python -m mlcls_jax.benchmark",
        description="Measures how fast a config trains here, and says what bounds it.",
        epilog="Every field of the config (mlcls_jax/config/schema.py) can be set: "
        "--config.data.batch_size=64 --config.data.csv=labels.csv --config.data.images=photos",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="config file, such as configs/b5.py")
    parser.add_argument(
        "--what",
        default="all",
        choices=WHAT,
        help="input (files to devices), step (evaluation and each phase, batch on the devices), "
        "train (end to end), or all, with a verdict (default)",
    )
    parser.add_argument("--sweep", default="", help="field and values: batch_size=16,32,64")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, text on stderr")
    parser.add_argument("--profile", default="", help="folder for a trace of three more steps")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each (default 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of them (default 1)")
    cli.add_process_options(parser)
    options, overrides = parser.parse_known_args(argv)
    if options.sweep and options.profile:
        parser.error("--profile traces one config; leave out --sweep")
    if options.repeats < 1 or not 0 < options.seconds < float("inf"):
        parser.error("--repeats must be at least 1, and --seconds above 0")
    return options, overrides


def _benchmark(configs: list[Config], sweep: Sweep | None, plan: Plan) -> dict[str, Any]:
    """Measures and prints; returns the JSON."""
    with tempfile.TemporaryDirectory(prefix="mlcls_jax_") as folder:
        if sweep is None:
            figures = measure(configs[0], plan, Path(folder))
            print_figures(figures)
            return to_json(figures)
        by_value = dict(zip(sweep.values, configs, strict=True))

        def measured(value: str):
            console.print(f"{sweep.field}={value}")
            return measure(by_value[value], plan, Path(folder))

        rows = run_sweep(sweep, measured)
    print_sweep(sweep, rows)
    return sweep_json(sweep, rows)


def _writable(folder: str) -> Path:
    """The folder, made; ValueError where nothing can be written into it."""
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--profile {folder} cannot be made: {error.strerror}") from error
    check_writable(path)
    return path


if __name__ == "__main__":
    cli.run(main)
