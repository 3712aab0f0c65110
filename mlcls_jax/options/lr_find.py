"""The command line of `lr-find`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mlcls_jax.config import Config
from mlcls_jax.config.aliases import DATA, add_aliases, alias_overrides
from mlcls_jax.config.loading import load_config, with_overrides
from mlcls_jax.config.options import Parser, add_process_options
from mlcls_jax.config.serialization import with_absolute_paths
from mlcls_jax.options.shared import check_folder, check_trained
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.input_paths import check_training_data
from mlcls_jax.run.stored_config import read_config
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.invocation import command

CURVE = "lr_find.png"
LEAST = 10  # steps


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the remaining arguments, which are config overrides."""
    parser = Parser(
        prog=command("lr_find"),
        description="Runs a learning-rate range test (arXiv:1506.01186): it trains a phase while "
        "the learning rate rises from --low to --high, and suggests the rate at which the loss "
        "falls fastest. If the phase has several groups, --low and --high are for the group with "
        "the highest rate, and the other groups keep their ratio to it.",
        epilog="Any field of the config (see mlcls_jax/config/schema.py) can be overridden: "
        "--config.data.csv=labels.csv --config.data.images=photos",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        default="",
        help="name of a config (b5) or path of a file (default: that of --workdir)",
    )
    parser.add_argument("--phase", default="", help="name of the phase (default: the first)")
    parser.add_argument(
        "--workdir",
        default="",
        help="run with the config, and with the state that a later phase starts from if it has "
        "kept that checkpoint; otherwise the phases before it are trained first",
    )
    parser.add_argument(
        "--out",
        default="",
        help=f"file for the curve (default: {CURVE} in --workdir, or here without one)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=0,
        help="largest number of steps (default: a tenth of those of the phase, 10 to 100; "
        "100 with cached features)",
    )
    parser.add_argument(
        "--low", type=float, default=1e-7, help="first learning rate (default 1e-7)"
    )
    parser.add_argument("--high", type=float, default=10.0, help="last learning rate (default 10)")
    add_aliases(parser, DATA)
    add_process_options(parser)
    options, overrides = parser.parse_known_args(argv)
    overrides += alias_overrides(options, (), overrides)
    if not options.config and not options.workdir:
        parser.error("name a config, as in --config b5, or a run, as in --workdir runs/b5")
    if 0 != options.steps < LEAST or not 0 < options.low < options.high < math.inf:
        parser.error(f"--steps must be at least {LEAST}, and --low above 0 and below --high")
    if options.out and not options.out.endswith(".png"):
        parser.error(f"--out {options.out}: it must end with .png")
    return options, overrides


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options, overrides = parse(argv)
        config = config_of(options, overrides)
        if options.phase:
            check_phase(options.phase, [phase.name for phase in config.phases])
        check_training_data(config.data)
        if options.workdir:
            check_trained(options.workdir, "best")
        if options.process <= 0 and not options.cluster:  # only the first process writes
            check_folder("out", str(file_of(options)))


def file_of(options: argparse.Namespace) -> Path:
    """Returns the file for the curve."""
    if options.out:
        return Path(options.out)
    return open_workdir(options.workdir) / CURVE if options.workdir else Path(CURVE)


def config_of(options: argparse.Namespace, overrides: list[str]) -> Config:
    """Returns the config that a command line means, with absolute paths.

    Args:
        options, overrides: from `parse`.

    Raises:
        ValueError: the config does not exist, or a value is wrong.
    """
    if options.config:
        config = load_config(options.config, overrides)
    else:  # its phases have the planned durations
        config = replace(read_config(open_workdir(options.workdir)), minutes=0.0)
        config = with_overrides(config, overrides)
    return with_absolute_paths(config)


def check_phase(name: str, names: Collection[str]) -> None:
    """Raises ValueError if no phase has the name."""
    if name not in names:
        raise ValueError(
            f"--phase {name}: the config has no such phase; choose from {', '.join(names)}"
        )
