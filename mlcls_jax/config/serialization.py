"""Converts configs to and from JSON, and compares them."""

import dataclasses
import json
from collections.abc import Collection
from functools import partial
from pathlib import Path

import dacite

from mlcls_jax.config.schema import PATHS, Augment, Config
from mlcls_jax.models.weights.aliases import is_name
from mlcls_jax.system.console import one_line

# Former names of fields of the section evaluation, and the present ones.
RENAMED = {
    "thresholds": "threshold_criterion",
    "wanted": "threshold_target",
    "tuned_positives": "min_positives_to_tune",
}


def renaming_hint(given: Collection[str]) -> str:
    """Returns a hint such as " (evaluation.wanted is now …)", or "" if no former name is given.

    Args:
        given: names of fields of the section evaluation.
    """
    former = [name for name in RENAMED if name in given]
    pairs = [f"evaluation.{name} is now evaluation.{RENAMED[name]}" for name in former]
    return f" ({'; '.join(pairs)})" if pairs else ""


def from_dict(values: dict) -> Config:
    """Returns the Config of a dictionary such as that of `dataclasses.asdict`.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type; names it.
    """
    numbers = {kind: partial(_refuse_bool, kind) for kind in (int, float)}
    try:
        return dacite.from_dict(Config, values, dacite.Config(strict=True, type_hooks=numbers))
    except (dacite.DaciteError, AttributeError, TypeError) as error:  # the latter two: not a dict
        evaluation = values.get("evaluation") if isinstance(values, dict) else None
        hint = renaming_hint(evaluation if isinstance(evaluation, dict) else ())
        raise ValueError(f"config: {one_line(error)}{hint}") from error


def _refuse_bool(kind: type, value):
    """Refuses True and False as numbers, which Python accepts: seed=True is a mistake."""
    if isinstance(value, bool):
        raise dacite.WrongTypeError(kind, value)
    return value


def to_json(config: Config) -> str:
    """Returns all fields as JSON, which `from_dict(json.loads(...))` reads back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def may_change(augment: Augment) -> set[str]:
    """Returns the fields that may change when a run is resumed.

    They decide how a run works, not what it computes.

    Args:
        augment: the section of the config.
    """
    fields = {"log_every", "minutes", "checkpoint.every_minutes"}
    fields |= {f"data.{name}" for name in ("threads", "on_bad_image", "max_bad_fraction")}
    fields |= {"data.loader", "data.service"}  # the images differ by rounding only
    fields |= {"train.on_nan", "train.max_skipped"}  # a run that stopped may skip after a restart
    fields |= {"distributed.timeout", "distributed.start_timeout"}
    decision_rule = (
        "threshold_criterion",
        "threshold_target",
        "min_positives_to_tune",
        "calibration",
    )
    fields |= {f"evaluation.{name}" for name in (*decision_rule, "train_sample")}
    # Random crops of cached images differ slightly from those of the files.
    squash = augment.train_resize == "squash"
    return fields | ({"data.cache", "data.cache_folder"} if squash else {"data.cache_folder"})


def per_machine(weights: str) -> set[str]:
    """Returns the fields that may differ between the processes of a run, such as paths.

    Args:
        weights: the field model.weights.
    """
    fields = set() if is_name(weights) else {"model.weights"}
    return fields | {"data.threads"} | {f"data.{name}" for name in PATHS}


def differences(a: Config, b: Config) -> list[str]:
    """Returns a line "field: value in a -> value in b" for each field that differs."""
    left, right = flatten_fields(dataclasses.asdict(a)), flatten_fields(dataclasses.asdict(b))
    paths = [*left, *(path for path in right if path not in left)]
    return [
        f"{path}: {left.get(path, 'absent')!r} -> {right.get(path, 'absent')!r}"
        for path in paths
        if left.get(path) != right.get(path) or (path in left) != (path in right)
    ]


def with_absolute_paths(config: Config) -> Config:
    """Returns a copy with absolute paths, valid from any working directory."""
    config = from_dict(dataclasses.asdict(config))
    for name in PATHS:
        value = getattr(config.data, name)
        is_tfds_name = config.data.source == "tfds" and name in ("csv", "val_csv", "test_csv")
        if value and "://" not in value and not is_tfds_name:
            setattr(config.data, name, str(Path(value).expanduser().absolute()))
    weights = config.model.weights
    if weights and "://" not in weights and not is_name(weights):
        config.model.weights = str(Path(weights).expanduser().absolute())
    return config


def flatten_fields(value, prefix: str = "") -> dict:
    """Returns the leaves of nested dictionaries and lists by their paths.

    Args:
        value: such as the result of `dataclasses.asdict`.
        prefix: path of the value.

    Returns:
        Such as {"data.batch_size": 32, "phases[0].groups[0].pattern": "head/.*"}.
    """
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else key, child) for key, child in value.items()]
    elif isinstance(value, list):
        items = [(f"{prefix}[{i}]", child) for i, child in enumerate(value)]
    else:
        return {prefix: value}
    return {path: leaf for key, child in items for path, leaf in flatten_fields(child, key).items()}
