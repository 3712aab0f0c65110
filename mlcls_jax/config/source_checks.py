"""Checks the fields of a config that say what kind of data set is read."""

import re

from mlcls_jax.config.schema import Data

# Fields of `data` that only some sources use.
SOURCE_FIELDS = {
    "filename_column": ("csv",),
    "split_column": ("csv", "hf"),
    "group_column": ("csv",),
    "label_delimiter": ("csv", "hf"),
    "label_column": ("csv", "hf", "label_studio", "fiftyone"),
    "confidence_column": ("csv", "hf"),
    "val_values": ("csv", "hf"),
    "test_values": ("csv", "hf"),
    "label_columns": ("csv", "hf"),
    "ignore_columns": ("csv", "hf"),
    "minus_one": ("csv", "hf"),
    "empty_cells": ("csv", "hf"),
    "crowd": ("coco", "tfds"),
    "min_area": ("coco", "tfds"),
    "difficult": ("voc", "tfds"),
    "image_feature": ("tfds", "hf", "label_studio"),
    "label_feature": ("tfds",),
}


def check_folds(data: Data, patience: bool) -> None:
    """Checks the fields of cross-validation.

    Args:
        data: the section of the config.
        patience: whether a phase may end early.

    Raises:
        ValueError: a number is out of range, or a field contradicts another one.
    """
    if data.folds < 0 or data.folds == 1:
        raise ValueError(f"config: data.folds is {data.folds}; it must be 0 (off), or 2 or more")
    if not -1 <= data.fold < max(data.folds, 1) or (data.fold >= 0 and not data.folds):
        allowed = f"-1 (all folds) to {data.folds - 1}" if data.folds else "-1 without data.folds"
        raise ValueError(f"config: data.fold is {data.fold}; it must be {allowed}")
    if not data.folds:
        if data.refit:
            raise ValueError(
                "config: data.refit is True, but data.folds is 0; set data.folds, such as --folds "
                "5, or remove data.refit"
            )
        return
    if data.val_csv:
        raise ValueError(
            f"config: data.folds is {data.folds}, but data.val_csv names validation images; the "
            "folds replace them: remove data.val_csv, or data.folds"
        )
    if data.val_fraction != Data().val_fraction:
        raise ValueError(
            f"config: data.val_fraction is {data.val_fraction}, but data.folds is {data.folds}, "
            "which validates on each fold; remove one of the two"
        )
    if data.refit and data.fold >= 0:
        raise ValueError(
            "config: data.refit follows all folds, but data.fold is "
            f"{data.fold}; remove one of the two"
        )
    if data.refit and patience:
        raise ValueError(
            "config: data.refit trains on all images, so no val can end a phase early; set "
            "patience=0 in every phase, or remove data.refit"
        )


def check_oversampling(data: Data) -> None:
    """Checks the fields of repeat-factor sampling.

    Raises:
        ValueError: a number is out of range, or a field is not used.
    """
    default = Data()
    for name in ("oversample_threshold", "oversample_max"):
        value = getattr(data, name)
        if data.oversample == "none" and value != getattr(default, name):
            raise ValueError(
                f"config: data.{name} is {value}, but data.oversample is 'none', which does not "
                "use it; remove it, or set data.oversample=sqrt"
            )
    if not 0 <= data.oversample_threshold < 1:
        raise ValueError(
            f"config: data.oversample_threshold is {data.oversample_threshold}; it must be at "
            "least 0 (the median of the classes) and below 1"
        )
    if not 1 <= data.oversample_max <= 1000:
        raise ValueError(
            f"config: data.oversample_max is {data.oversample_max}; it must be 1 to 1000"
        )


def check_source(data: Data) -> None:
    """Checks that the fields of a data set fit its source and each other.

    Raises:
        ValueError: a field is not used, or lacks another one.
    """
    default = Data()
    for name, sources in SOURCE_FIELDS.items():
        value = getattr(data, name)
        if data.source not in sources and value != getattr(default, name):
            raise ValueError(
                f"config: data.{name} is {value!r}, but data.source is {data.source!r}, which does "
                f"not use it; remove it, or set data.source={sources[0]!r}"
            )
    for name in ("label_columns", "minus_one", "empty_cells"):
        if data.confidence_column and name != "label_columns":
            continue
        for other in ("label_delimiter", "label_column"):
            if getattr(data, other) and getattr(data, name):
                raise ValueError(
                    f"config: data.{name} is {getattr(data, name)!r}, but data.{other} is "
                    f"{getattr(data, other)!r}, which reads labels from one column; remove one of "
                    "the two"
                )
    _check_groups(data)
    has_own = data.source in ("voc", "folders", "hf", "fiftyone")
    folders = ("val_images", "test_images") if has_own or data.source == "tfds" else ()
    for name in ("images", *folders) if has_own else folders:
        if getattr(data, name):
            raise ValueError(
                f"config: data.{name} is {getattr(data, name)!r}, but the images of "
                f"data.source={data.source!r} are found without it; remove it"
            )


def _check_groups(data: Data) -> None:
    if data.group_column and data.group_pattern:
        raise ValueError(
            f"config: data.group_column is {data.group_column!r} and data.group_pattern is "
            f"{data.group_pattern!r}, but an image has one group; remove one of the two"
        )
    try:
        re.compile(data.group_pattern)
    except re.error as error:
        raise ValueError(
            f"config: data.group_pattern is {data.group_pattern!r}, which is no regular "
            f"expression ({error}); correct it, such as '(patient[0-9]+)_'"
        ) from None
