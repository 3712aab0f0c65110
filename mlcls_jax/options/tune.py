"""The command line of `tune`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from mlcls_jax.config import Config
from mlcls_jax.config.aliases import DATA, add_aliases, alias_overrides
from mlcls_jax.config.loading import load_config
from mlcls_jax.config.options import Parser
from mlcls_jax.config.recipes import BEST, with_fields
from mlcls_jax.config.serialization import with_absolute_paths
from mlcls_jax.run.input_paths import check_training_data
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.files import check_writable
from mlcls_jax.system.invocation import command
from mlcls_jax.system.remote import is_remote

TRIALS, FOLDS = 30, 3  # defaults
TPE, RANDOM = "tpe", "random"  # values of --sampler


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the remaining arguments, which are config overrides."""
    parser = Parser(
        prog=command("tune"),
        description="Searches for better learning rates, weight decay, loss, dropout and "
        "augmentation with Optuna. A trial is a cross-validation with its own values; those of the "
        "first trial are the config's. The same command continues a search.",
        epilog="Any field of the config (see mlcls_jax/config/schema.py) can be overridden: "
        f"--config.data.folds=5. Without data.folds, there are {FOLDS} folds.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="name of a config (b5) or path of a file")
    parser.add_argument(
        "--workdir",
        required=True,
        help="folder for the trials (tune.csv), their database, and best.py, a config with the "
        "best values",
    )
    parser.add_argument(
        "--trials", type=int, default=TRIALS, help=f"number of trials (default {TRIALS})"
    )
    parser.add_argument(
        "--sampler",
        default=TPE,
        choices=(TPE, RANDOM),
        help="how values are chosen: tpe (default) learns from the trials before; random does not",
    )
    parser.add_argument(
        "--finetune",
        action="store_true",
        help="train all phases in each trial, and search their rates and augmentation too "
        "(default: only phases with cached features, which take seconds)",
    )
    parser.add_argument(
        "--decoder",
        action="store_true",
        help="also try the ML-Decoder as head; its features take more memory",
    )
    add_aliases(parser, DATA)
    options, overrides = parser.parse_known_args(argv)
    overrides += alias_overrides(options, (), overrides)
    if options.trials < 1:
        parser.error(f"--trials {options.trials}: it must be at least 1")
    if is_remote(options.workdir):
        parser.error("--workdir must be on a disk, where the database of the trials is")
    return options, overrides


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        config = config_of(*parse(argv))
        check_training_data(config.data)
        workdir = Path(parse(argv)[0].workdir)
        if workdir.exists():
            check_writable(workdir)
        if find_spec("optuna") is None:
            raise ValueError("tune needs the package optuna; run pip install 'mlcls_jax[tune]'")


def config_of(options: argparse.Namespace, overrides: list[str]) -> Config:
    """Returns the config that a command line means, with absolute paths.

    Args:
        options, overrides: from `parse`.

    Raises:
        ValueError: the config does not exist, a value is wrong, or no phase can be tuned.
    """
    config = with_absolute_paths(load_config(options.config, overrides))
    if config.minutes:
        raise ValueError("config: minutes is for one run; leave it out, and set the epochs")
    if not options.finetune and not any(phase.cached_views for phase in config.phases):
        raise ValueError("no phase of the config has cached_views; add --finetune to train all")
    return config


def trial_config(options: argparse.Namespace, overrides: list[str]) -> Config:
    """Returns the config of a trial, before its values are set; see `config_of`."""
    config = config_of(options, overrides)
    fields = {"log.to": "", "data.refit": False, "data.folds": config.data.folds or FOLDS}
    if config.recipe == BEST:
        fields["recipe"] = "auto"  # the same without a training on all images
    for i, phase in enumerate(config.phases):
        if not options.finetune and not phase.cached_views:
            fields[f"phases[{i}].duration"] = "0 steps"
    return with_fields(config, fields)
