"""Checks a config: each mistake is one line with the field, what is wrong and what to do."""

import dataclasses
import math
from collections.abc import Iterable

from mlcls_jax.config.durations import duration_in_steps
from mlcls_jax.config.loader_checks import check_loader
from mlcls_jax.config.log_checks import check_log
from mlcls_jax.config.phase_checks import (
    check_cached_views,
    check_duration,
    check_phases,
    check_rules,
)
from mlcls_jax.config.pixel_checks import check_pixels
from mlcls_jax.config.ranges import (
    augment_ranges,
    check_ranges,
    data_ranges,
    evaluation_ranges,
    model_ranges,
    run_ranges,
    safety_ranges,
)
from mlcls_jax.config.recipes import BEST, data_of_recipe
from mlcls_jax.config.schema import (
    Config,
    Data,
    Loss,
    Model,
    Phase,
    Train,
    default_phases,
)
from mlcls_jax.config.serialization import flatten_fields, from_dict
from mlcls_jax.config.source_checks import check_folds, check_oversampling, check_source

# Fields of `loss` that only one loss uses.
LOSS_FIELDS = {
    "bce": ("pos_weight", "pos_weight_max"),
    "focal": ("gamma", "alpha"),
    "asl": ("gamma_pos", "gamma_neg", "clip", "focus_gradient"),
}

# Fields of `model` that a custom network does not use.
CUSTOM_UNUSED = (
    *("head", "decoder_groups", "decoder_width", "dropout", "drop_path"),
    *("compute_dtype", "remat", "sync_batch_norm"),
)


def validate(config: Config) -> None:
    """Checks the types and values of all fields.

    Raises:
        ValueError: a field has a wrong type or an impossible value; names the first one.
    """
    fields = dataclasses.asdict(config)
    from_dict(fields)
    _check_choices(config, "")
    check_ranges(
        flatten_fields(fields),
        [
            *run_ranges(config.seed, config.log_every, config.minutes),
            *data_ranges(config.data),
            *augment_ranges(config.augment),
            *model_ranges(config.model),
            *evaluation_ranges(config.evaluation),
            *safety_ranges(config.checkpoint, config.train, config.distributed),
            ("phases", bool(config.phases), "a list of at least one phase"),
        ],
    )
    check_duration("evaluation.every", config.evaluation.every, at_least_a_step=True)
    check_source(config.data)
    if config.recipe == BEST:
        _check_best(config.data, config.phases)
    data = data_of_recipe(config.recipe, config.data)
    check_folds(data, any(phase.patience for phase in config.phases))
    check_oversampling(config.data)
    check_loader(config.data, config.augment)
    check_pixels(config.data, config.augment, config.model.in_channels)
    _check_loss(config.loss)
    _check_train(config.train)
    check_log(config.log)
    check_phases(config.phases, config.data.batch_size)
    _check_recipe(config.recipe, config.minutes, config.phases)
    check_cached_views(config.phases, config.augment)
    _check_head(config.model)
    if config.model.sync_batch_norm and all(p.batch_norm == "frozen" for p in config.phases):
        raise ValueError(
            "config: model.sync_batch_norm is True, but it needs a phase with "
            'batch_norm="train"; set phases[i].batch_norm="train", or remove it'
        )


def _check_choices(node, prefix: str) -> None:
    for entry in dataclasses.fields(node):
        value, path = getattr(node, entry.name), f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(value):
            _check_choices(value, f"{path}.")
        elif isinstance(value, list):
            for i, child in enumerate(value):
                if dataclasses.is_dataclass(child):
                    _check_choices(child, f"{path}[{i}].")
        elif (choices := entry.metadata.get("choices")) and value not in choices:
            raise ValueError(f"config: {path} is {value!r}; it must be one of {_names(choices)}")


def _names(choices: Iterable[str]) -> str:
    return ", ".join(choice or "''" for choice in choices)


def _check_best(data: Data, phases: list[Phase]) -> None:
    given = [("data.val_csv", data.val_csv, "")]
    given += [("data.val_fraction", data.val_fraction, Data().val_fraction)]
    given += [(f"phases[{i}].patience", phase.patience, 0) for i, phase in enumerate(phases)]
    for path, value, default in given:
        if value != default:
            raise ValueError(
                "config: recipe is 'best', which trains folds and then on all images, but "
                f"{path} is {value!r}; remove one of the two"
            )


def _check_recipe(recipe: str, minutes: float, phases: list[Phase]) -> None:
    given, default = ([(p.name, len(p.groups)) for p in x] for x in (phases, default_phases()))
    wanted = f"minutes is {minutes:g}" if minutes else f"recipe is {recipe!r}"
    if (minutes or recipe == "fast") and given != default:
        names = " and ".join(name for name, _ in default)
        raise ValueError(
            f"config: {wanted}, which needs the default phases {names} with their groups; set "
            "durations and groups instead"
        )
    if minutes and not duration_in_steps(phases[-1].duration, 1, 1):
        raise ValueError(
            f"config: {wanted}, but phase {phases[-1].name!r} lasts {phases[-1].duration}; remove "
            "one of the two"
        )


def _check_loss(loss: Loss) -> None:
    rules = [
        ("label_smoothing", 0 <= loss.label_smoothing < 1, "at least 0 and below 1"),
        ("pos_weight", _is_weight(loss.pos_weight), 'a number above 0, a list of them, or "auto"'),
        ("pos_weight_max", 1 <= loss.pos_weight_max < math.inf, "at least 1 and finite"),
        ("gamma", 0 <= loss.gamma < math.inf, "at least 0 and finite"),
        ("alpha", loss.alpha is None or 0 < loss.alpha < 1, "above 0 and below 1, or None"),
        ("gamma_pos", 0 <= loss.gamma_pos < math.inf, "at least 0 and finite"),
        ("gamma_neg", 0 <= loss.gamma_neg < math.inf, "at least 0 and finite"),
        ("clip", 0 <= loss.clip < 1, "at least 0 and below 1"),
    ]
    check_rules("loss", loss, rules)
    default = Loss()
    for name in ("name", *sum(LOSS_FIELDS.values(), ())) if loss.custom else ():
        if getattr(loss, name) != getattr(default, name):
            raise ValueError(
                f"config: loss.{name} is {getattr(loss, name)!r}, but loss.custom is "
                f"{loss.custom!r}, which does not use it; remove one of the two"
            )
    for loss_name, fields in LOSS_FIELDS.items():
        for name in fields:
            value = getattr(loss, name)
            if loss_name != loss.name and value != getattr(default, name):
                raise ValueError(
                    f"config: loss.{name} is {value!r}, but loss.name is {loss.name!r}, which does "
                    f"not use it; remove it, or set loss.name={loss_name!r}"
                )
    if loss.pos_weight != "auto" and loss.pos_weight_max != default.pos_weight_max:
        raise ValueError(
            f"config: loss.pos_weight_max is {loss.pos_weight_max}, but loss.pos_weight is "
            f'{loss.pos_weight!r}; remove it, or set loss.pos_weight="auto", which it limits'
        )


def _check_train(train: Train) -> None:
    if train.on_nan == "stop" and train.max_skipped != Train().max_skipped:
        raise ValueError(
            f"config: train.max_skipped is {train.max_skipped}, but train.on_nan is 'stop'; "
            'remove it, or set train.on_nan="skip"'
        )


def _is_weight(value: float | list[float] | str) -> bool:
    if isinstance(value, str):
        return value == "auto"
    numbers = value if isinstance(value, list) else [value]
    return bool(numbers) and all(
        isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf
        for number in numbers
    )


def _check_head(model: Model) -> None:
    default = Model()
    for name in CUSTOM_UNUSED if model.custom else ():
        if getattr(model, name) != getattr(default, name):
            raise ValueError(
                f"config: model.{name} is {getattr(model, name)!r}, but model.custom is "
                f"{model.custom!r}, which does not use it; remove one of the two"
            )
    for name in ("decoder_groups", "decoder_width"):
        value = getattr(model, name)
        if model.head == "gap" and value != getattr(default, name):
            raise ValueError(
                f"config: model.{name} is {value}, but model.head is 'gap', which does not use it; "
                'remove it, or set model.head="mldecoder"'
            )
