"""What a config may be: every mistake is one line that names the field."""

import dataclasses
import re

from mlcls_jax.config import Augment, Config, Group, Phase, flatten, from_dict, steps_of


def validate(config: Config) -> None:
    """Raises ValueError that names the first field with a wrong type or impossible value."""
    from_dict(dataclasses.asdict(config))
    _check_choices(config, "")
    _check_ranges(config)
    _check_phases(config.phases)
    _check_cached_views(config.phases, config.augment)
    if config.model.sync_batch_norm and all(p.batch_norm == "frozen" for p in config.phases):
        raise ValueError(
            'config: model.sync_batch_norm needs a phase with batch_norm="train"; the others '
            "normalise by the running statistics"
        )


def _check_choices(node, prefix: str) -> None:
    for entry in dataclasses.fields(node):
        value, path = getattr(node, entry.name), f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(value):
            _check_choices(value, f"{path}.")
        elif isinstance(value, list):
            for i, child in enumerate(value):
                _check_choices(child, f"{path}[{i}].")
        elif (choices := entry.metadata.get("choices")) and value not in choices:
            raise ValueError(f"config: {path} is {value!r}; it must be one of {', '.join(choices)}")


def _check_ranges(config: Config) -> None:
    data, model = config.data, config.model
    size = model.image_size
    rules = [
        ("seed", 0 <= config.seed < 2**31, "at least 0 and below 2**31"),
        ("log_every", config.log_every >= 1, "at least 1"),
        ("data.val_fraction", 0 < data.val_fraction < 1, "above 0 and below 1"),
        ("data.test_fraction", 0 <= data.test_fraction < 1, "at least 0 and below 1"),
        (
            "data.test_fraction",
            data.val_fraction + data.test_fraction < 1,
            "so small that training pictures are left beside data.val_fraction",
        ),
        ("data.split_seed", 0 <= data.split_seed < 2**32, "at least 0 and below 2**32"),
        ("data.batch_size", data.batch_size >= 1, "at least 1"),
        ("data.eval_batch_size", data.eval_batch_size >= 1, "at least 1"),
        ("data.threads", data.threads >= 0, "at least 0"),
        ("data.max_bad_fraction", 0 <= data.max_bad_fraction < 1, "at least 0 and below 1"),
        (
            "data.cache_folder",
            "://" not in data.cache_folder,
            "a folder of this machine, as the file is mapped into memory",
        ),
        ("data.max_pixels", data.max_pixels >= 1, "at least 1"),
        ("data.filename_column", bool(data.filename_column), "the name of a column"),
        ("augment.min_scale", 0 < config.augment.min_scale <= 1, "above 0 and at most 1"),
        ("model.image_size", size == 0 or 32 <= size <= 4096, "0, or 32 to 4096 pixels"),
        ("model.dropout", model.dropout is None or 0 <= model.dropout < 1, "in [0, 1) or None"),
        ("evaluation.min_positives", config.evaluation.min_positives >= 1, "at least 1"),
        ("evaluation.wanted", 0 < config.evaluation.wanted <= 1, "above 0 and at most 1"),
        ("evaluation.tuned_positives", config.evaluation.tuned_positives >= 1, "at least 1"),
        ("phases", bool(config.phases), "a list of at least one phase"),
    ]
    for path, holds, wanted in rules:
        if not holds:
            value = flatten(dataclasses.asdict(config)).get(path)
            raise ValueError(f"config: {path} is {value!r}; it must be {wanted}")
    _check_duration("evaluation.every", config.evaluation.every, at_least_a_step=True)


def _check_phases(phases: list[Phase]) -> None:
    names = [phase.name for phase in phases]
    for i, phase in enumerate(phases):
        path = f"phases[{i}]"
        if not re.fullmatch(r"[\w-]+", phase.name) or names.count(phase.name) > 1:
            raise ValueError(
                f"config: {path}.name is {phase.name!r}; it must be letters, digits, - and _, "
                "and no other phase's name"
            )
        _check_duration(f"{path}.duration", phase.duration)
        _check_duration(f"{path}.warmup", phase.warmup)
        if not phase.groups:
            raise ValueError(f"config: {path}.groups is empty; name at least one group to train")
        if not 0 <= phase.clip_norm < float("inf"):
            raise ValueError(f"config: {path}.clip_norm is {phase.clip_norm}; 0 turns it off")
        for j, group in enumerate(phase.groups):
            _check_group(f"{path}.groups[{j}]", group)


def _check_group(path: str, group: Group) -> None:
    try:
        re.compile(group.pattern)
    except re.error as error:
        raise ValueError(
            f"config: {path}.pattern {group.pattern!r} is no regular expression: {error}"
        ) from error
    if not 0 < group.learning_rate < float("inf"):
        raise ValueError(
            f"config: {path}.learning_rate is {group.learning_rate}; it must be above 0. To freeze "
            "parameters, leave them out of every group"
        )
    if not 0 <= group.weight_decay < float("inf"):
        raise ValueError(f"config: {path}.weight_decay is {group.weight_decay}; at least 0")


def _check_cached_views(phases: list[Phase], augment: Augment) -> None:
    for i, phase in enumerate(phases):
        path, views = f"phases[{i}].cached_views", phase.cached_views
        if not 0 <= views <= 2:
            raise ValueError(f"config: {path} is {views}; it must be 0 (off), 1 or 2")
        if views and augment.train_resize != "squash":
            raise ValueError(
                f"config: {path} is {views}, but augment.train_resize={augment.train_resize!r} "
                'takes another part of a picture each time; set that to "squash", or this to 0'
            )
        if views == 2 and not augment.flip:
            raise ValueError(
                f"config: {path} is 2, but augment.flip is False and forbids the mirrored "
                "picture; set this to 1, or that to True"
            )


def _check_duration(path: str, duration: str, at_least_a_step: bool = False) -> None:
    try:
        steps = steps_of(duration, pictures=1, batch_size=1)
    except ValueError as error:
        raise ValueError(f"config: {path}: {error}") from error
    if at_least_a_step and steps == 0:
        raise ValueError(f"config: {path} is {duration!r}; it must be longer than nothing")
