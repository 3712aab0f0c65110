"""The stored config of a run: reads it, finds runs by their path, and refuses another config.

It imports nothing that takes long, so that a mistake in a command line is reported at once.
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlcls_jax.config import Config, Model, Phase
from mlcls_jax.config.checks import validate
from mlcls_jax.config.durations import duration_in_steps
from mlcls_jax.config.serialization import differences, from_dict, may_change, per_machine
from mlcls_jax.models.weights.aliases import is_name, without_alias
from mlcls_jax.run.bucket_run import local_folder
from mlcls_jax.run.checkpoint_integrity import (
    FOLDER,
    check_regular,
    fold_folders,
    has_checkpoint,
    read_metadata,
    saved_steps,
)
from mlcls_jax.system.invocation import command

CONFIG = "config.json"
BEST = "best"
# Sections of the config that decide what a trained model computes; the others only train it.
OF_MODEL = ("model", "data", "augment", "evaluation")


def read_config(workdir: Path) -> Config:
    """Returns the config of a run, with defaults for missing fields.

    It is checked like a config from the command line, because the workdir may be from anybody.

    Raises:
        ValueError: config.json cannot be read, or has an unknown field or an impossible value.
    """
    path = workdir / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        hint = ""
        if has_checkpoint(workdir):
            hint = " (each checkpoint has a copy in metadata/metadata)"
        raise ValueError(
            f"{workdir} holds no run: {path} cannot be read ({error}); choose the workdir of a "
            f"run, or restore the file{hint}"
        ) from error
    try:
        config = from_dict(values)
        validate(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def check_unchanged(workdir: Path, config: Config) -> None:
    """Checks that a config continues the run in a workdir.

    Args:
        workdir: of a run with a checkpoint.
        config: only the fields of `may_change` may differ from those of the run.

    Raises:
        ValueError: the config differs; names the fields, and how to start a new run from this one.
    """
    stored, free = read_config(workdir), may_change(config.augment)
    config = replace(config, model=with_stored_revision(config.model, stored.model))
    changed = [line for line in differences(stored, config) if line.split(":")[0] not in free]
    if changed:
        lengthened = all(re.match(r"phases\[\d+\]\.duration:", line) for line in changed)
        raise ValueError(
            f"{workdir} holds a run with another config ({'; '.join(changed)}); continue it with "
            f"its own config: {command('train')} --workdir {workdir}; or "
            f"{new_run(workdir, config.phases if lengthened else ())}"
        )


def check_config_kept(workdir: Path, accepted: bool, sections: Sequence[str] = ()) -> list[str]:
    """Checks that nobody has edited config.json since the latest checkpoint.

    Args:
        workdir: of the run.
        accepted: whether changes are returned rather than refused.
        sections: of the config, to compare only these; () compares all.

    Returns:
        What has changed; see `edited_fields`.

    Raises:
        ValueError: a field that decides what the run computes has changed.
    """
    changed = edited_fields(workdir, _latest_config(workdir), sections)
    if changed and not accepted:
        raise ValueError(describe_edits(workdir, changed))
    return changed


def describe_edits(workdir: Path, changed: Sequence[str]) -> str:
    """Returns the message for a config.json that differs from the config in a checkpoint."""
    return (
        f"{workdir / CONFIG} was edited since its checkpoint ({'; '.join(changed)}); set "
        f"{'this field' if len(changed) == 1 else 'these fields'} back, or go on "
        f"with --accept-changed-data (in Python, accept_changed_data=True)"
    )


def edited_fields(workdir: Path, saved: Any, sections: Sequence[str] = ()) -> list[str]:
    """Returns "field: value in the checkpoint -> value in config.json" for fields that differ.

    Paths may differ, because the data may have moved, and so may the fields of `may_change`.

    Args:
        workdir: of the run.
        saved: the config in the metadata of a checkpoint; None if it has none.
        sections: of the config, to compare only these; () compares all.
    """
    try:
        before = from_dict(saved)
    except ValueError:
        return []  # of another version, or none
    stored = read_config(workdir)
    if before.data.fold >= 0 > stored.data.fold:  # of a fold, in the workdir of all
        before = replace(before, data=replace(before.data, fold=stored.data.fold))
    free = may_change(before.augment) | per_machine("/")
    lines = differences(before, stored)
    if sections:
        lines = [line for line in lines if line.split(".")[0] in sections]
    return [line for line in lines if line.split(":")[0] not in free]


def _latest_config(workdir: Path) -> Any:
    """Returns the config in the latest checkpoint that can be read, perhaps of a fold; or None."""
    for folder in (workdir, *fold_folders(workdir)):
        for step in reversed(saved_steps(folder)):
            try:
                return read_metadata(folder / FOLDER / str(step)).get("config")
            except (OSError, ValueError):
                continue  # damaged; the training says so
    return None


def with_stored_revision(model: Model, stored: Model) -> Model:
    """Returns the section with the commit at which the run has read weights of the Hub.

    Args:
        model: section of the config as it is given.
        stored: that of the run.
    """
    name, _, commit = stored.weights.partition("@")
    given = without_alias(model.weights, model.variant)
    if commit and is_name(name) and given == name:
        return replace(model, weights=stored.weights)
    return model


def new_run(workdir: Path, phases: Sequence[Phase]) -> str:
    """Returns how to start a new run from the weights of a run.

    Args:
        workdir: of the run.
        phases: of the new run, of which only the last that trains is repeated; empty: all phases
            of the run.
    """
    lasting = [i for i, phase in enumerate(phases) if duration_in_steps(phase.duration, 1, 1)]
    epochs = re.fullmatch(r"([\d.]+) epochs?", phases[lasting[-1]].duration) if lasting else None
    option = ""
    if epochs:
        numbers = [epochs[1] if i == lasting[-1] else "0" for i in range(len(phases))]
        option = f" --epochs {' '.join(numbers)}"
    return (
        f"{'for more epochs, ' if phases else ''}start a new run from its weights: "
        f"{command('train')} --resume-from {workdir} --workdir {next_workdir(workdir)}{option}"
    )


def next_workdir(workdir: Path) -> Path:
    """Returns the workdir for a run that starts from another one.

    >>> next_workdir(Path("runs/mine")).name, next_workdir(Path("runs/mine-2")).name
    ('mine-2', 'mine-3')
    """
    workdir = workdir if workdir.name else workdir.absolute()
    match = re.fullmatch(r"(.+)-(\d+)", workdir.name)
    name, number = (match[1], int(match[2])) if match else (workdir.name, 1)
    return workdir.with_name(f"{name}-{number + 1}")


def find_run(weights: str) -> tuple[Path, str] | None:
    """Returns the workdir and the checkpoint that model.weights names, or None if it is no run.

    Args:
        weights: the folder of a run, for its best checkpoint, or one of its checkpoints, such as
            runs/mine/checkpoints/120.
    """
    if not weights or is_name(weights):
        return None
    folder, which, path = weights, BEST, Path(weights)
    if path.parent.name == FOLDER and path.name.isdecimal():
        folder, which = weights[: weights.rindex(FOLDER)] or ".", path.name
    workdir = local_folder(folder).expanduser()
    # Another folder with weights may have a config.json too.
    if not (workdir / CONFIG).is_file() or not (workdir / FOLDER).is_dir():
        return None
    check_regular(workdir)
    return workdir, which


def check_run(option: str, given: str) -> tuple[Path, str]:
    """Returns the workdir and the checkpoint of a run that an option names.

    Args:
        option: its name, for the message.
        given: its value.

    Raises:
        ValueError: there is no such run, or it has no such checkpoint.
    """
    found = find_run(given)
    if found is None:
        path = local_folder(given).expanduser()
        if path.is_file():
            raise ValueError(
                f"{option} {given} is a file, not the folder of a run; a file of weights is used "
                f"with --config.model.weights={given}"
            )
        folders = path.parent.iterdir() if path.parent.is_dir() else ()
        runs = [str(folder) for folder in folders if (folder / CONFIG).is_file()]
        near = difflib.get_close_matches(str(path), runs, 1)
        problem = "holds no run with a checkpoint" if path.exists() else "does not exist"
        hint = f"did you mean {near[0]}?" if near else "name the --workdir of a run that trained"
        if folds := fold_folders(path):
            hint = f"it has folds, so name one, such as {folds[0]}"
        raise ValueError(f"{option} {given} {problem}; {hint}")
    workdir, which = found
    steps = saved_steps(workdir)
    if not steps or (which != BEST and int(which) not in steps):
        have = f"it has {', '.join(map(str, steps))}" if steps else "train in it first"
        wanted = f"checkpoint {which}" if which != BEST else "checkpoint yet"
        raise ValueError(f"{option} {given}: {workdir} holds no {wanted}; {have}")
    return workdir, which


def check_same_network(workdir: Path, own: Model, wanted: Model) -> None:
    """Checks that a run has the network of another one that starts from it; heads may differ.

    Args:
        workdir: of the run.
        own: its section model.
        wanted: that of the new run.

    Raises:
        ValueError: they differ.
    """
    for field in ("in_channels", "custom", "variant"):
        there, here = getattr(own, field, ""), getattr(wanted, field, "")
        if there != here:
            raise ValueError(
                f"config: model.weights is the run {workdir} with model.{field}={there}, but "
                f"model.{field} is {here}; set --config.model.{field}={there}, or leave out "
                "--config to use that run's config"
            )
        if there and field == "custom":  # it has no variant
            return
