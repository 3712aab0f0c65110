"""The values that numbers and texts of a config may have."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlcls_jax.config.pixel_checks import MAX_CHANNELS
from mlcls_jax.config.schema import Augment, Checkpoint, Data, Distributed, Evaluation, Model, Train
from mlcls_jax.models.variants import HEADS

MAX_TIMEOUT = 24 * 3600  # seconds
_NOT_NEGATIVE, _POSITIVE = "0 (off) or more, and finite", "at least 1"

# (path of a field, whether its value is possible, what it must be)
Range = tuple[str, bool, str]


def check_ranges(fields: Mapping[str, Any], ranges: Sequence[Range]) -> None:
    """Raises a ValueError that names the first field with an impossible value.

    Args:
        fields: {path: value} of the leaves of the config.
        ranges: of its sections.
    """
    for path, is_valid, expected in ranges:
        if not is_valid:
            value = fields.get(path, [])  # an empty list has no leaves
            raise ValueError(f"config: {path} is {value!r}; it must be {expected}")


def run_ranges(seed: int, log_every: int, minutes: float) -> list[Range]:
    """Returns the ranges of fields that are in no section."""
    return [
        ("seed", 0 <= seed < 2**31, "at least 0 and below 2**31"),
        ("log_every", log_every >= 1, _POSITIVE),
        ("minutes", 0 <= minutes < math.inf, "0 (no limit) or more, and finite"),
    ]


def data_ranges(data: Data) -> list[Range]:
    """Returns the ranges of the section data."""
    marks, fractions = data.label_delimiter, data.val_fraction + data.test_fraction
    is_mark = marks in ("\\t", "\\n") or not any(mark.isalnum() for mark in marks)
    left = f"below 1 - data.val_fraction ({1 - data.val_fraction:g}), to leave training images"
    local = "a local folder, because its files are mapped into memory"
    return [
        ("data.val_fraction", 0 < data.val_fraction < 1, "above 0 and below 1"),
        ("data.test_fraction", 0 <= data.test_fraction < 1, "at least 0 and below 1"),
        ("data.test_fraction", fractions < 1, left),
        ("data.split_seed", 0 <= data.split_seed < 2**32, "at least 0 and below 2**32"),
        ("data.batch_size", data.batch_size >= 1, _POSITIVE),
        ("data.eval_batch_size", data.eval_batch_size >= 1, _POSITIVE),
        ("data.threads", data.threads >= 0, "at least 0"),
        ("data.max_bad_fraction", 0 <= data.max_bad_fraction < 1, "at least 0 and below 1"),
        ("data.cache_folder", "://" not in data.cache_folder, local),
        ("data.max_pixels", data.max_pixels >= 1, _POSITIVE),
        ("data.filename_column", bool(data.filename_column), "the name of a column"),
        ("data.label_delimiter", is_mark, 'without letters and digits, such as ";" or " "'),
        ("data.min_area", 0 <= data.min_area < math.inf, _NOT_NEGATIVE),
        ("data.image_feature", bool(data.image_feature), "the name of a feature"),
        ("data.label_feature", bool(data.label_feature), "the name of a feature"),
    ]


def augment_ranges(augment: Augment) -> list[Range]:
    """Returns the ranges of the section augment."""
    shares = ("brightness", "contrast", "saturation", "cutout", "erase")
    return [
        ("augment.min_scale", 0 < augment.min_scale <= 1, "above 0 and at most 1"),
        *((f"augment.{x}", 0 <= getattr(augment, x) <= 1, "0 (off) to 1") for x in shares),
        ("augment.hue", 0 <= augment.hue <= 0.5, "0 (off) to 0.5 (half of the colour circle)"),
        ("augment.rand_augment", (augment.rand_augment or 0) >= 0, "0 (off) or more, or None"),
        ("augment.magnitude", 0 <= augment.magnitude <= 10, "0 to 10"),
        *(
            (f"augment.{x}", not alpha or 0.01 <= alpha <= 100, "0 (off), or 0.01 to 100")
            for x, alpha in (("mixup", augment.mixup), ("cutmix", augment.cutmix))
        ),
    ]


def model_ranges(model: Model) -> list[Range]:
    """Returns the ranges of the section model."""
    size, channels, width = model.image_size, model.in_channels, model.decoder_width
    images = f"1 (grey), 3 (RGB) or the number of channels of the images, up to {MAX_CHANNELS}"
    heads = f"a multiple of {HEADS}, the number of attention heads"
    rates = (("dropout", model.dropout), ("drop_path", model.drop_path))
    return [
        (
            "model.image_size",
            size == 0 or 32 <= size <= 4096,
            "0 (the published size) or 32 to 4096 pixels",
        ),
        ("model.in_channels", 1 <= channels <= MAX_CHANNELS, images),
        *(
            (f"model.{x}", rate is None or 0 <= rate < 1, "at least 0 and below 1, or None")
            for x, rate in rates
        ),
        ("model.decoder_groups", model.decoder_groups >= 0, "at least 0"),
        ("model.decoder_width", width >= HEADS and width % HEADS == 0, heads),
    ]


def evaluation_ranges(evaluation: Evaluation) -> list[Range]:
    """Returns the ranges of the section evaluation."""
    target = evaluation.threshold_target
    return [
        ("evaluation.min_positives", evaluation.min_positives >= 1, _POSITIVE),
        ("evaluation.threshold_target", 0 < target <= 1, "above 0 and at most 1"),
        ("evaluation.min_positives_to_tune", evaluation.min_positives_to_tune >= 1, _POSITIVE),
        ("evaluation.train_sample", evaluation.train_sample >= 0, "0 (off) or more"),
    ]


def safety_ranges(checkpoint: Checkpoint, train: Train, distributed: Distributed) -> list[Range]:
    """Returns the ranges of saves, skipped steps and waiting times."""
    minutes = checkpoint.every_minutes
    timeouts = (
        ("timeout", distributed.timeout),
        ("start_timeout", distributed.start_timeout),
    )
    return [
        (
            "checkpoint.every_minutes",
            0 <= minutes < math.inf,
            "0 (no saves between evaluations) or more, and finite",
        ),
        ("train.max_skipped", train.max_skipped >= 1, _POSITIVE),
        *(
            (f"distributed.{x}", 5 <= value <= MAX_TIMEOUT, f"5 to {MAX_TIMEOUT} seconds")
            for x, value in timeouts
        ),
    ]
