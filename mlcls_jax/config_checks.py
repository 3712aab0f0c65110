"""What a config may be: every mistake is one line that names the field."""

import dataclasses
import math
import re

from mlcls_jax.config import (
    Augment,
    Config,
    Data,
    Group,
    Loss,
    Model,
    Phase,
    Train,
    flatten,
    from_dict,
    steps_of,
)
from mlcls_jax.models.variants import HEADS

# Fields of `loss` that belong to one of its names.
LOSS_FIELDS = {
    "bce": ("pos_weight", "pos_weight_max"),
    "focal": ("gamma", "alpha"),
    "asl": ("gamma_pos", "gamma_neg", "clip", "focus_gradient"),
}

# Fields of `data` that belong to some of its sources.
SOURCE_FIELDS = {
    "filename_column": ("csv",),
    "split_column": ("csv",),
    "label_delimiter": ("csv",),
    "label_column": ("csv",),
    "crowd": ("coco", "tfds"),
    "min_area": ("coco", "tfds"),
    "difficult": ("voc", "tfds"),
    "image_feature": ("tfds",),
    "label_feature": ("tfds",),
}
MAX_TIMEOUT = 24 * 3600

# Fields of Augment that change a picture each time.
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


def validate(config: Config) -> None:
    """Raises ValueError that names the first field with a wrong type or impossible value."""
    from_dict(dataclasses.asdict(config))
    _check_choices(config, "")
    _check_ranges(config)
    _check_source(config.data)
    _check_loss(config.loss)
    _check_train(config.train)
    _check_phases(config.phases, config.data.batch_size)
    _check_cached_views(config.phases, config.augment)
    _check_head(config.model)
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
                if dataclasses.is_dataclass(child):
                    _check_choices(child, f"{path}[{i}].")
        elif (choices := entry.metadata.get("choices")) and value not in choices:
            raise ValueError(f"config: {path} is {value!r}; it must be one of {', '.join(choices)}")


def _check_ranges(config: Config) -> None:
    data, model, augment = config.data, config.model, config.augment
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
        (
            "data.label_delimiter",
            not any(mark.isalnum() for mark in data.label_delimiter),
            "a mark that is in no label, such as ; or a space",
        ),
        ("data.min_area", 0 <= data.min_area < math.inf, "at least 0, which turns it off"),
        ("data.image_feature", bool(data.image_feature), "the name of a feature"),
        ("data.label_feature", bool(data.label_feature), "the name of a feature"),
        ("augment.min_scale", 0 < augment.min_scale <= 1, "above 0 and at most 1"),
        *_augment_ranges(augment),
        ("model.image_size", size == 0 or 32 <= size <= 4096, "0, or 32 to 4096 pixels"),
        ("model.dropout", model.dropout is None or 0 <= model.dropout < 1, "in [0, 1) or None"),
        ("model.decoder_groups", model.decoder_groups >= 0, "at least 0"),
        (
            "model.decoder_width",
            model.decoder_width >= HEADS and model.decoder_width % HEADS == 0,
            f"a multiple of {HEADS}, the number of attention heads",
        ),
        ("evaluation.min_positives", config.evaluation.min_positives >= 1, "at least 1"),
        ("evaluation.wanted", 0 < config.evaluation.wanted <= 1, "above 0 and at most 1"),
        ("evaluation.tuned_positives", config.evaluation.tuned_positives >= 1, "at least 1"),
        (
            "checkpoint.every_minutes",
            0 <= config.checkpoint.every_minutes < math.inf,
            "at least 0, which leaves the saves to the evaluations",
        ),
        ("train.max_skipped", config.train.max_skipped >= 1, "at least 1"),
        ("evaluation.train_sample", config.evaluation.train_sample >= 0, "at least 0 (off)"),
        (
            "distributed.timeout",
            5 <= config.distributed.timeout <= MAX_TIMEOUT,
            f"5 to {MAX_TIMEOUT} seconds",
        ),
        (
            "distributed.start_timeout",
            5 <= config.distributed.start_timeout <= MAX_TIMEOUT,
            f"5 to {MAX_TIMEOUT} seconds",
        ),
        ("phases", bool(config.phases), "a list of at least one phase"),
    ]
    for path, holds, wanted in rules:
        if not holds:
            value = flatten(dataclasses.asdict(config)).get(path)
            raise ValueError(f"config: {path} is {value!r}; it must be {wanted}")
    _check_duration("evaluation.every", config.evaluation.every, at_least_a_step=True)


def _check_source(data: Data) -> None:
    default = Data()
    for name, owners in SOURCE_FIELDS.items():
        value = getattr(data, name)
        if data.source not in owners and value != getattr(default, name):
            raise ValueError(
                f"config: data.{name} is {value!r}, but data.source is {data.source!r}, which has "
                f"none; leave it out, or set data.source={owners[0]!r}"
            )
    if data.label_column and not data.label_delimiter:
        raise ValueError(
            f"config: data.label_column is {data.label_column!r}, but data.label_delimiter is "
            'empty; set that to what is between the labels, such as ";"'
        )
    places = ("val_images", "test_images") if data.source in ("voc", "tfds") else ()
    for name in ("images", *places) if data.source == "voc" else places:
        if getattr(data, name):
            raise ValueError(
                f"config: data.{name} is {getattr(data, name)!r}, but the pictures of "
                f"data.source={data.source!r} are found without it; leave it out"
            )


def _check_loss(loss: Loss) -> None:
    rules = [
        ("label_smoothing", 0 <= loss.label_smoothing < 1, "at least 0 and below 1"),
        ("pos_weight", _is_weight(loss.pos_weight), 'a number above 0, a list of them, or "auto"'),
        ("pos_weight_max", 1 <= loss.pos_weight_max < math.inf, "at least 1"),
        ("gamma", 0 <= loss.gamma < math.inf, "at least 0"),
        ("alpha", loss.alpha is None or 0 < loss.alpha < 1, "above 0 and below 1, or None"),
        ("gamma_pos", 0 <= loss.gamma_pos < math.inf, "at least 0"),
        ("gamma_neg", 0 <= loss.gamma_neg < math.inf, "at least 0"),
        ("clip", 0 <= loss.clip < 1, "at least 0 and below 1"),
    ]
    _check_rules("loss", loss, rules)
    default = Loss()
    for owner, names in LOSS_FIELDS.items():
        for name in names:
            value = getattr(loss, name)
            if owner != loss.name and value != getattr(default, name):
                raise ValueError(
                    f"config: loss.{name} is {value!r}, but loss.name is {loss.name!r}, which has "
                    f"none; leave it out, or set loss.name={owner!r}"
                )
    if loss.pos_weight != "auto" and loss.pos_weight_max != default.pos_weight_max:
        raise ValueError(
            f"config: loss.pos_weight_max is {loss.pos_weight_max}, but loss.pos_weight is "
            f'{loss.pos_weight!r}; it limits "auto" only, so leave it out'
        )


def _check_train(train: Train) -> None:
    if train.on_nan == "stop" and train.max_skipped != Train().max_skipped:
        raise ValueError(
            f"config: train.max_skipped is {train.max_skipped}, but train.on_nan is 'stop'; it "
            'limits "skip" only, so leave it out'
        )


def _check_rules(path: str, owner: Loss | Phase, rules: list[tuple[str, bool, str]]) -> None:
    """rules: (field of the owner, whether it may be so, what it must be)."""
    for name, holds, wanted in rules:
        if not holds:
            value = getattr(owner, name)
            raise ValueError(f"config: {path}.{name} is {value!r}; it must be {wanted}")


def _is_weight(value: float | list[float] | str) -> bool:
    if isinstance(value, str):
        return value == "auto"
    numbers = value if isinstance(value, list) else [value]
    return bool(numbers) and all(
        isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf
        for number in numbers
    )


def _augment_ranges(augment: Augment) -> list[tuple[str, bool, str]]:
    shares = ("brightness", "contrast", "saturation", "cutout", "erase")
    return [
        *((f"augment.{x}", 0 <= getattr(augment, x) <= 1, "0 (off) to 1") for x in shares),
        ("augment.hue", 0 <= augment.hue <= 0.5, "0 (off) to 0.5, half of the colour circle"),
        ("augment.rand_augment", augment.rand_augment >= 0, "at least 0 (off)"),
        ("augment.magnitude", 0 <= augment.magnitude <= 10, "0 to 10"),
        *(
            (f"augment.{x}", alpha == 0 or 0.01 <= alpha <= 100, "0 (off), or 0.01 to 100")
            for x, alpha in (("mixup", augment.mixup), ("cutmix", augment.cutmix))
        ),
    ]


def _check_phases(phases: list[Phase], batch_size: int) -> None:
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
    _check_rules(path, phase, rules)


def _check_optimizer(path: str, phase: Phase) -> None:
    """Fields that would have no effect beside another one."""
    usual = Phase(phase.name, phase.duration, phase.groups)
    if phase.optimizer != "sgd" and phase.momentum != usual.momentum:
        raise ValueError(
            f"config: {path}.momentum is {phase.momentum}, but {path}.optimizer is "
            f'{phase.optimizer!r}; it belongs to "sgd", so leave one of them as it was'
        )
    if phase.schedule == "onecycle" and steps_of(phase.warmup, pictures=1, batch_size=1):
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


def _check_head(model: Model) -> None:
    published = Model()
    for name in ("decoder_groups", "decoder_width"):
        value = getattr(model, name)
        if model.head == "gap" and value != getattr(published, name):
            raise ValueError(
                f"config: model.{name} is {value}, but model.head is 'gap', which has no decoder; "
                'set that to "mldecoder", or leave this out'
            )


def _check_cached_views(phases: list[Phase], augment: Augment) -> None:
    for i, phase in enumerate(phases):
        path, views = f"phases[{i}].cached_views", phase.cached_views
        if not 0 <= views <= 2:
            raise ValueError(f"config: {path} is {views}; it must be 0 (off), 1 or 2")
        if views == 2 and not augment.flip:
            raise ValueError(
                f"config: {path} is 2, but augment.flip is False and forbids the mirrored "
                "picture; set this to 1, or that to True"
            )
    lasting = [phase for phase in phases if steps_of(phase.duration, 1, 1)]
    if not lasting or not all(phase.cached_views for phase in lasting):
        return
    off = Augment()
    for name in CHANGES:
        if (value := getattr(augment, name)) != getattr(off, name):
            raise ValueError(
                f"config: augment.{name} is {value!r}, but cached_views is on in every phase, "
                f"whose features are of plain pictures; leave it at {getattr(off, name)!r}, or set "
                "cached_views to 0"
            )


def _check_duration(path: str, duration: str, at_least_a_step: bool = False) -> None:
    try:
        steps = steps_of(duration, pictures=1, batch_size=1)
    except ValueError as error:
        raise ValueError(f"config: {path}: {error}") from error
    if at_least_a_step and steps == 0:
        raise ValueError(f"config: {path} is {duration!r}; it must be longer than nothing")
