"""Checks the phases of a config: each mistake is one line that names the field."""

import re

from mlcls_jax.config.durations import duration_in_steps
from mlcls_jax.config.schema import SYMMETRIES, Augment, Group, Loss, Phase

# Fields of Augment that cached features cannot have, because they change an image at random.
RANDOM_CHANGES = (
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "rand_augment",
    "cutout",
    "erase",
    "mixup",
    "cutmix",
    "custom",
)


def check_phases(phases: list[Phase], batch_size: int) -> None:
    """Checks the fields of all phases except cached_views.

    Args:
        phases: of the config.
        batch_size: the field data.batch_size.

    Raises:
        ValueError: a field has an impossible value; names the first one.
    """
    names = [phase.name for phase in phases]
    for i, phase in enumerate(phases):
        path = f"phases[{i}]"
        if not re.fullmatch(r"[\w-]+", phase.name) or names.count(phase.name) > 1:
            raise ValueError(
                f"config: {path}.name is {phase.name!r}; it must consist of letters, digits, - "
                "and _, and differ from the names of the other phases"
            )
        check_duration(f"{path}.duration", phase.duration)
        check_duration(f"{path}.warmup", phase.warmup)
        if not phase.groups:
            raise ValueError(f"config: {path}.groups is empty; add at least one group to train")
        _check_numbers(path, phase)
        _check_optimizer(path, phase)
        if batch_size % phase.accumulate:
            raise ValueError(
                f"config: {path}.accumulate is {phase.accumulate}; it must divide "
                f"data.batch_size={batch_size}, so that a batch has equal parts"
            )
        for j, group in enumerate(phase.groups):
            _check_group(f"{path}.groups[{j}]", group)


def _check_numbers(path: str, phase: Phase) -> None:
    rules = [
        ("momentum", 0 <= phase.momentum < 1, "at least 0 and below 1"),
        ("layer_decay", 0 < phase.layer_decay <= 1, "above 0 and at most 1 (off)"),
        ("clip_norm", 0 <= phase.clip_norm < float("inf"), "0 (off) or more, and finite"),
        ("accumulate", phase.accumulate >= 1, "1 (off) or more"),
        ("ema", 0 <= phase.ema < 1, "0 (off) or more, and below 1"),
        ("patience", phase.patience >= 0, "0 (off) or more"),
    ]
    check_rules(path, phase, rules)


def _check_optimizer(path: str, phase: Phase) -> None:
    """Refuses fields that have no effect because of another one."""
    default = Phase(phase.name, phase.duration, phase.groups)
    if phase.optimizer != "sgd" and phase.momentum != default.momentum:
        raise ValueError(
            f"config: {path}.momentum is {phase.momentum}, but {path}.optimizer is "
            f'{phase.optimizer!r}, which does not use it; remove it, or set {path}.optimizer="sgd"'
        )
    if phase.schedule == "onecycle" and duration_in_steps(phase.warmup, images=1, batch_size=1):
        raise ValueError(
            f'config: {path}.warmup is {phase.warmup!r}, but {path}.schedule="onecycle" contains '
            f'its own warmup; set {path}.warmup="0 steps"'
        )


def _check_group(path: str, group: Group) -> None:
    try:
        re.compile(group.pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"config: {path}.pattern is {group.pattern!r}; it must be a regular expression: {error}"
        ) from error
    if not 0 < group.learning_rate < float("inf"):
        raise ValueError(
            f"config: {path}.learning_rate is {group.learning_rate}; it must be above 0 and "
            "finite; to freeze parameters, remove them from every group"
        )
    if not 0 <= group.weight_decay < float("inf"):
        raise ValueError(
            f"config: {path}.weight_decay is {group.weight_decay}; it must be at least 0 and finite"
        )


def check_cached_views(phases: list[Phase], augment: Augment) -> None:
    """Checks cached_views, which exclude all random augmentation except augment.symmetry.

    Args:
        phases: of the config.
        augment: the section of the config.

    Raises:
        ValueError: an impossible number of views, more of them than images of augment.symmetry, or
            an augmentation that no phase would use.
    """
    for i, phase in enumerate(phases):
        path, views = f"phases[{i}].cached_views", phase.cached_views
        if views not in (0, *SYMMETRIES.values()):
            raise ValueError(f"config: {path} is {views}; it must be 0 (off), 1, 2, 4 or 8")
        most = SYMMETRIES[augment.symmetry]
        if views > most:
            wider = next(name for name, count in SYMMETRIES.items() if count == views)
            raise ValueError(
                f"config: {path} is {views}, but augment.symmetry is {augment.symmetry!r}, which "
                f"has {most} image{'s' * (most > 1)}; set {path}={most}, or set "
                f"augment.symmetry={wider!r}"
            )
    active = [phase for phase in phases if duration_in_steps(phase.duration, 1, 1)]
    if not active or not all(phase.cached_views for phase in active):
        return
    off = Augment()
    resize = () if augment.train_resize != "random_crop" else ("train_resize",)
    for name in (*resize, *RANDOM_CHANGES):
        value, unchanged = getattr(augment, name), getattr(off, name)
        unchanged = 0 if unchanged is None else unchanged
        if value and value != unchanged:
            raise ValueError(
                f"config: augment.{name} is {value!r}, but every phase has cached_views, which "
                f"use plain images; set augment.{name}={unchanged!r}, or set "
                "phases[i].cached_views=0"
            )


def check_duration(path: str, duration: str, at_least_a_step: bool = False) -> None:
    """Checks a duration.

    Args:
        path: of the field, for the message.
        duration: its value.
        at_least_a_step: whether a duration of 0 is refused.

    Raises:
        ValueError: the duration is malformed, too long, or 0 if that is refused.
    """
    try:
        steps = duration_in_steps(duration, images=1, batch_size=1)
    except ValueError as error:
        raise ValueError(f"config: {path}: {error}") from error
    if at_least_a_step and steps == 0:
        raise ValueError(f"config: {path} is {duration!r}; it must be longer than 0")


def check_rules(path: str, owner: Loss | Phase, rules: list[tuple[str, bool, str]]) -> None:
    """Checks fields of one section.

    Args:
        path: of the section, for the message.
        owner: the section.
        rules: (name of a field, whether its value is valid, what it must be).

    Raises:
        ValueError: the first value that is not valid.
    """
    for name, is_valid, expected in rules:
        if not is_valid:
            value = getattr(owner, name)
            raise ValueError(f"config: {path}.{name} is {value!r}; it must be {expected}")
