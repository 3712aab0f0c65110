"""The command line of a training: its options, and the config and the workdir that they mean.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from mlcls_jax.config import Config, Data, Model
from mlcls_jax.config.aliases import add_aliases, alias_overrides
from mlcls_jax.config.fields import PREFIX, not_an_option, paths_of
from mlcls_jax.config.loading import base_config, with_overrides
from mlcls_jax.config.log_checks import check_installed
from mlcls_jax.config.options import Parser, add_accept_changed_data, add_process_options
from mlcls_jax.config.recipes import data_of_recipe, with_recipe, with_stored_depth
from mlcls_jax.config.serialization import with_absolute_paths
from mlcls_jax.models.weights.hub import check_hub, is_hub
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.checkpoint_integrity import has_run
from mlcls_jax.run.input_paths import check_training_data
from mlcls_jax.run.stored_config import (
    CONFIG,
    check_config_kept,
    check_run,
    check_same_network,
    check_unchanged,
    find_run,
    next_workdir,
    read_config,
)
from mlcls_jax.system.bucket import address_of, copy_of
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.files import check_writable
from mlcls_jax.system.invocation import command

DEFAULT = "default"  # the config of a run that names none
WEIGHTS = "model.weights"
RUNS = Path("runs")
# Fields of Data that belong to the data set of another run, and not to a new CSV.
OTHER_FILES = ("val_csv", "val_images", "test_csv", "test_images", "categories", "class_names")
OTHER_FILES += ("corrections",)


@dataclass(frozen=True)
class Start:
    """What a command line means.

    Attributes:
        config: of the run, with absolute paths.
        workdir: folder of the run.
        note: a line to print first; "" for none.
    """

    config: Config
    workdir: Path
    note: str


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the remaining arguments, which are config overrides."""
    parser = Parser(
        prog=command("train"),
        description="Fine-tunes an EfficientNet on a folder of images and a CSV of labels.",
        epilog="Any field of the config (see mlcls_jax/config/schema.py) can be overridden: "
        "--config.loss.name=asl '--config.phases[1].ema=0.999'",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        help="name of a config (b5, lite0), or path of a file (my.py).  Not needed to continue a "
        f"run or to start from one; otherwise, its default is {DEFAULT}",
    )
    parser.add_argument(
        "--workdir",
        default="",
        help="folder of the run; alone, it continues the run in it (default: runs/<config>, or "
        "RUN-2 with --resume-from RUN)",
    )
    parser.add_argument(
        "--resume-from",
        default="",
        metavar="RUN",
        help="start a new run from the best checkpoint of another run, or from one of its "
        "RUN/checkpoints/STEP, with the config of that run unless --config names another",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="do not train: check data, weights and memory, estimate the training time, and draw "
        "the first training images with their labels to WORKDIR/contact_sheet.png",
    )
    parser.add_argument(
        "--recipe",
        choices=("auto", "fast", "best", "none"),
        help="what to fill in where the config has its default: auto (default) turns on "
        "RandAugment, fast also limits fine-tuning to the last two stages, best is auto with "
        "--folds 5 --refit, none changes nothing",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="plan epochs and image size so that training takes about this many minutes",
    )
    add_accept_changed_data(parser)
    add_aliases(parser)
    add_process_options(parser)
    options, overrides = parser.parse_known_args(argv)
    given = {"recipe": options.recipe, "minutes": options.minutes}
    return options, overrides + [f"{PREFIX}{k}={v}" for k, v in given.items() if v is not None]


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        start_of(*parse(argv))


def start_of(options: argparse.Namespace, overrides: list[str]) -> Start:
    """Returns the config and the workdir that a command line means.

    Args:
        options, overrides: from `parse`.

    Raises:
        ValueError: a value is wrong, options contradict each other, or the workdir holds a run
            with another config.
    """
    source = check_run("--resume-from", options.resume_from) if options.resume_from else None
    workdir = _workdir(options, source[0] if source else None)
    base, note = _base(options, overrides, workdir, source[0] if source else None)
    overrides = overrides + alias_overrides(options, base.phases, overrides)
    if source:
        if WEIGHTS in paths_of(overrides):
            raise ValueError(
                f"--resume-from and {PREFIX}{WEIGHTS} set the same field; leave out one of them"
            )
        overrides.append(f"{PREFIX}{WEIGHTS}={options.resume_from}")
    config = with_absolute_paths(with_overrides(base, overrides))
    config = replace(config, data=data_of_recipe(config.recipe, config.data))
    check_installed(config.log)
    _check_kept(workdir, options.accept_changed_data)
    if not has_run(workdir):
        check_training_data(config.data)
        _check_network(config.model)
    elif not config.minutes and not config.model.custom:
        # The training checks it again, with the plan for --minutes and for a custom network.
        stored = read_config(workdir)
        config = replace(config, data=with_stored_depth(config.data, stored.data))
        check_unchanged(workdir, with_recipe(config, stored)[0])
    return Start(config, workdir, note)


def _workdir(options: argparse.Namespace, source: Path | None) -> Path:
    """Returns the folder of the run."""
    if options.workdir:
        workdir = open_workdir(options.workdir)
        if copy_of(workdir):
            check_writable(workdir)
        if source and workdir.absolute() == source.absolute():
            raise ValueError(
                f"--workdir and --resume-from are both {workdir}; leave out --resume-from to "
                f"continue that run, or use --workdir {next_workdir(workdir)} for a new one"
            )
        return workdir
    if source and not options.config:
        return open_workdir(address_of(next_workdir(source)))
    return open_workdir(RUNS / Path(options.config or DEFAULT).stem)


def _base(
    options: argparse.Namespace, overrides: list[str], workdir: Path, source: Path | None
) -> tuple[Config, str]:
    """Returns the config before overrides, and a line that says where it is from."""
    if options.config:
        return base_config(options.config), ""
    if source:
        config = replace(read_config(source), minutes=0.0)  # its phases have the planned durations
        if options.csv or "data.csv" in paths_of(overrides):
            unset = {name: getattr(Data(), name) for name in OTHER_FILES}
            config = replace(config, data=replace(config.data, **unset))
        return config, f"Config: that of {source}."
    if (workdir / CONFIG).is_file():
        return read_config(workdir), f"Config: that of {workdir}."
    if options.csv or "data.csv" in paths_of(overrides):
        config = base_config(DEFAULT)
        return config, (
            f"Config: {DEFAULT} (EfficientNet {config.model.variant}); --config NAME chooses "
            "another, such as lite0 or b5."
        )
    if options.workdir:
        raise ValueError(
            f"--workdir {options.workdir} holds no run to continue; for a new run, name your data: "
            "--csv labels.csv --images photos"
        )
    if overrides and not overrides[0].startswith(PREFIX):
        raise ValueError(not_an_option(overrides[0]))
    raise ValueError(
        "nothing says what to train: name your data, as in --csv labels.csv --images photos, and "
        f"a network, as in --config lite0; or a run to continue, as in --workdir {RUNS / 'mine'}"
    )


def _check_kept(workdir: Path, accepted: bool) -> None:
    """Raises ValueError if config.json was edited, or if no run is there to accept data for."""
    if has_run(workdir):
        check_config_kept(workdir, accepted)
    elif accepted:
        raise ValueError(
            f"--accept-changed-data: {workdir} holds no run whose data could have changed; leave "
            "the option out"
        )


def _check_network(model: Model) -> None:
    """Raises ValueError if model.weights is a run of another network, or cannot be on the Hub."""
    if is_hub(model.weights):
        check_hub(model.weights)
    if find_run(model.weights):
        workdir, _ = check_run(WEIGHTS, model.weights)
        check_same_network(workdir, read_config(workdir).model, model)
