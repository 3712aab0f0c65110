"""Converts configs to and from JSON, compares them, and describes their network in words."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dacite

from mlcls_jax.config.schema import PATHS, Augment, Config, Model, image_size
from mlcls_jax.models.variants import query_count
from mlcls_jax.models.weights.aliases import is_name
from mlcls_jax.system.console import one_line

# Former names of fields, and the present ones.
RENAMED = {
    "evaluation.thresholds": "evaluation.threshold_criterion",
    "evaluation.wanted": "evaluation.threshold_target",
    "evaluation.tuned_positives": "evaluation.min_positives_to_tune",
    "augment.flip": "augment.symmetry",
}
# Former values, True, False or None, of former and of present fields: what each of them is now.
FORMER_VALUES: dict[str, dict[bool | None, Any]] = {
    "augment.flip": {True: "h", False: "none"},
    "augment.mixup": {None: 0.0},
}


def renaming_hint(given: Collection[str]) -> str:
    """Returns a hint such as " (evaluation.wanted is now …)", or "" if no former name is given.

    Args:
        given: paths of fields.
    """
    pairs = [f"{path} is now {name}" for path, name in RENAMED.items() if path in given]
    return f" ({'; '.join(pairs)})" if pairs else ""


def with_present_names(section: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a section, with former fields and values in their present form.

    A former field whose value is not understood, or whose present field is given as well, is left
    as it is.

    >>> with_present_names("augment", {"flip": False, "hue": 0.1})
    {'hue': 0.1, 'symmetry': 'none'}
    """
    fields = dict(fields)
    for path, values in FORMER_VALUES.items():
        former, present = (x.rpartition(".")[2] for x in (path, RENAMED.get(path, path)))
        if path != f"{section}.{former}" or former not in fields:
            continue
        for value, now in values.items():
            if fields[former] is value and (former == present or present not in fields):
                del fields[former]
                fields[present] = now
                break
    return fields


def from_dict(values: dict) -> Config:
    """Returns the Config of a dictionary such as that of `dataclasses.asdict`.

    Former fields are understood, because config.json may be from an earlier version.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type; names it.
    """
    if isinstance(values, dict):
        values = {
            name: with_present_names(name, part) if isinstance(part, dict) else part
            for name, part in values.items()
        }
    numbers = {kind: partial(_refuse_bool, kind) for kind in (int, float)}
    try:
        return dacite.from_dict(Config, values, dacite.Config(strict=True, type_hooks=numbers))
    except (dacite.DaciteError, AttributeError, TypeError) as error:  # the latter two: not a dict
        hint = renaming_hint(flatten_fields(values))
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
    fields |= {"data.refit"}  # it follows the folds
    fields |= {"data.loader", "data.service"}  # the images differ by rounding only
    fields |= {"train.on_nan", "train.max_skipped"}  # a run that stopped may skip after a restart
    fields |= {"log.to", "log.project", "log.run_name"}
    fields |= {"distributed.timeout", "distributed.start_timeout"}
    decision_rule = (
        "threshold_criterion",
        "threshold_target",
        "min_positives_to_tune",
        "calibration",
    )
    fields |= {f"evaluation.{name}" for name in (*decision_rule, "train_sample")}
    # Random crops of cached images differ slightly from those of the files.
    crops = augment.train_resize == "random_crop"
    return fields | ({"data.cache_folder"} if crops else {"data.cache", "data.cache_folder"})


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


def describe_network(model: Model, num_classes: int) -> str:
    """Returns one line with the variant, the input and the number of decoder queries.

    Args:
        model: the section of a config.
        num_classes: outputs of the head.

    >>> describe_network(Model("lite0"), 80)
    'EfficientNet lite0, 224 px'
    """
    size, channels = f"{image_size(model)} px", model.in_channels
    if channels != 3:
        size += ", 1 channel" if channels == 1 else f", {channels} channels"
    if model.custom:
        return f"{model.custom}, {size}"
    text = f"EfficientNet {model.variant}, {size}"
    if model.head == "mldecoder":
        text += f", ML-Decoder with {query_count(num_classes, model.decoder_groups)} queries"
    return text
