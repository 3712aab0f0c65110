"""What the phases of a config may be: every mistake is one line that names the field."""

import re

from mlcls_jax.config.durations import duration_in_steps
from mlcls_jax.config.schema import Augment, Group, Loss, Phase

# Fields of Augment that change an image each time.
CHANGES = (
    "train_resize",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "rand_augment",
    "cutout",
    "erase",
    "mixup",
    "cutmix",
)


def check_phases(phases: list[Phase], batch_size: int) -> None:
    """Raises ValueError that names the first field with an impossible value."""
    names = [phase.name for phase in phases]
    for i, phase in enumerate(phases):
        path = f"phases[{i}]"
        if not re.fullmatch(r"[\w-]+", phase.name) or names.count(phase.name) > 1:
            raise ValueError(
                f"config: {path}.name is {phase.name!r}; it must be letters, digits, - and _, "
                "and no other phase's name"
            )
        check_duration(f"{path}.duration", phase.duration)
        check_duration(f"{path}.warmup", phase.warmup)
        if not phase.groups:
            raise ValueError(f"config: {path}.groups is empty; name at least one group to train")
        _check_numbers(path, phase)
        _check_optimizer(path, phase)
        if batch_size % phase.accumulate:
            raise ValueError(
                f"config: {path}.accumulate is {phase.accumulate}, which does not divide "
                f"data.batch_size={batch_size}; the parts of a batch are of one size"
            )
        for j, group in enumerate(phase.groups):
            _check_group(f"{path}.groups[{j}]", group)


def _check_numbers(path: str, phase: Phase) -> None:
    rules = [
        ("momentum", 0 <= phase.momentum < 1, "at least 0 and below 1"),
        ("layer_decay", 0 < phase.layer_decay <= 1, "above 0 and at most 1, which turns it off"),
        ("clip_norm", 0 <= phase.clip_norm < float("inf"), "at least 0, which turns it off"),
        ("accumulate", phase.accumulate >= 1, "at least 1, which turns it off"),
        ("ema", 0 <= phase.ema < 1, "at least 0, which turns it off, and below 1"),
        ("patience", phase.patience >= 0, "at least 0, which turns it off"),
    ]
    check_rules(path, phase, rules)


def _check_optimizer(path: str, phase: Phase) -> None:
    """Fields that would have no effect beside another one."""
    usual = Phase(phase.name, phase.duration, phase.groups)
    if phase.optimizer != "sgd" and phase.momentum != usual.momentum:
        raise ValueError(
            f"config: {path}.momentum is {phase.momentum}, but {path}.optimizer is "
            f'{phase.optimizer!r}; it belongs to "sgd", so leave one of them as it was'
        )
    if phase.schedule == "onecycle" and duration_in_steps(phase.warmup, images=1, batch_size=1):
        raise ValueError(
            f'config: {path}.warmup is {phase.warmup!r}, but {path}.schedule="onecycle" has a '
            'rise of its own; set warmup to "0 steps"'
        )


def _check_group(path: str, group: Group) -> None:
    try:
        re.compile(group.pattern)
    except (re.error, RecursionError, OverflowError) as error:
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


def check_cached_views(phases: list[Phase], augment: Augment) -> None:
    """Raises ValueError for views that nothing of `augment` could change."""
    for i, phase in enumerate(phases):
        path, views = f"phases[{i}].cached_views", phase.cached_views
        if not 0 <= views <= 2:
            raise ValueError(f"config: {path} is {views}; it must be 0 (off), 1 or 2")
        if views == 2 and not augment.flip:
            raise ValueError(
                f"config: {path} is 2, but augment.flip is False and forbids the mirrored "
                "image; set this to 1, or that to True"
            )
    lasting = [phase for phase in phases if duration_in_steps(phase.duration, 1, 1)]
    if not lasting or not all(phase.cached_views for phase in lasting):
        return
    off = Augment()
    for name in CHANGES:
        if (value := getattr(augment, name)) != getattr(off, name):
            raise ValueError(
                f"config: augment.{name} is {value!r}, but cached_views is on in every phase, "
                f"whose features are of plain images; leave it at {getattr(off, name)!r}, or set "
                "cached_views to 0"
            )


def check_duration(path: str, duration: str, at_least_a_step: bool = False) -> None:
    """Raises ValueError for what is no duration; path: of the field."""
    try:
        steps = duration_in_steps(duration, images=1, batch_size=1)
    except ValueError as error:
        raise ValueError(f"config: {path}: {error}") from error
    if at_least_a_step and steps == 0:
        raise ValueError(f"config: {path} is {duration!r}; it must be longer than nothing")


def check_rules(path: str, owner: Loss | Phase, rules: list[tuple[str, bool, str]]) -> None:
    """Raises ValueError for the first of (field of the owner, whether it may be so, what it must
    be) that does not hold; path: of the owner."""
    for name, holds, wanted in rules:
        if not holds:
            value = getattr(owner, name)
            raise ValueError(f"config: {path}.{name} is {value!r}; it must be {wanted}")
