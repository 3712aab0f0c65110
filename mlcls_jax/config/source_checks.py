"""Checks the fields of a config that say what kind of data set is read."""

import re

from mlcls_jax.config.schema import Data

# Fields of `data` that only some sources use.
SOURCE_FIELDS = {
    "filename_column": ("csv",),
    "split_column": ("csv", "hf"),
    "group_column": ("csv",),
    "label_delimiter": ("csv", "hf"),
    "label_column": ("csv", "hf"),
    "confidence_column": ("csv", "hf"),
    "val_values": ("csv", "hf"),
    "test_values": ("csv", "hf"),
    "label_columns": ("csv", "hf"),
    "ignore_columns": ("csv", "hf"),
    "minus_one": ("csv", "hf"),
    "crowd": ("coco", "tfds"),
    "min_area": ("coco", "tfds"),
    "difficult": ("voc", "tfds"),
    "image_feature": ("tfds", "hf"),
    "label_feature": ("tfds",),
}


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
    for name in ("label_columns", *(() if data.confidence_column else ("minus_one",))):
        for other in ("label_delimiter", "label_column"):
            if getattr(data, other) and getattr(data, name):
                raise ValueError(
                    f"config: data.{name} is {getattr(data, name)!r}, but data.{other} is "
                    f"{getattr(data, other)!r}, which reads labels from one column; remove one of "
                    "the two"
                )
    _check_groups(data)
    has_own = data.source in ("voc", "folders", "hf")
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
