"""Labels from wherever they are: each `data.source` becomes the same LabelTable."""

import os
from collections.abc import Sequence

from mlcls_jax.config import Data
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.coco import read_coco
from mlcls_jax.data.readers.csv_labels import read_labels, with_categories
from mlcls_jax.data.readers.detection import AnnotationPolicy
from mlcls_jax.data.readers.packed import is_packed, read_packed
from mlcls_jax.data.readers.tfds import TfdsSet, read_tfds
from mlcls_jax.data.readers.voc import read_voc


def has_folder(data: Data, place: str) -> bool:
    """Whether the images of a label file are in a folder that somebody has to name."""
    return data.source == "coco" or (data.source == "csv" and not is_packed(place))


def read_table(
    data: Data,
    place: str,
    images: str,
    *,
    classes: Sequence[str] | None = None,
    unlabelled: bool = False,
) -> LabelTable:
    """Reads labels and where their images are.

    Args:
      data: the source and what it needs.
      place: as in data.csv.
      images: as in data.images.
      classes: those of other images, which a file need not name all of: where labels are in one
        column, and in VOC's annotations.
      unlabelled: whether a CSV of file names alone will do, see `read_labels`.

    Raises:
      ValueError: one line, see the reader of each source.
    """
    policy = AnnotationPolicy(data.crowd, data.difficult, data.min_area)
    if data.source == "coco":
        table = read_coco(place, images, policy)
    elif data.source == "voc":
        table = read_voc(place, policy, classes)
    elif data.source == "tfds":
        table = read_tfds(TfdsSet(place, images, data.image_feature, data.label_feature, policy))
    else:
        return _read_csv(data, place, images, classes, unlabelled)
    return with_categories(table, data.categories)


def _read_csv(
    data: Data, place: str, images: str, classes: Sequence[str] | None, unlabelled: bool
) -> LabelTable:
    for there, source in (
        (place.lower().endswith(".json"), "coco"),
        (os.path.isdir(os.path.join(os.path.expanduser(place), "Annotations")), "voc"),
    ):
        if there:
            raise ValueError(f"{place} is no CSV; set data.source={source!r} to read it")
    options = {
        "categories": data.categories or None,
        "filename_column": data.filename_column,
        "split_column": data.split_column,
        "delimiter": data.label_delimiter,
        "label_column": data.label_column,
        "classes": classes,
        "unlabelled": unlabelled,
    }
    return (
        read_packed(place, **options) if is_packed(place) else read_labels(place, images, **options)
    )
