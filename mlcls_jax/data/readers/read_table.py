"""Reads labels from any `data.source` into a LabelTable."""

import os
from collections.abc import Sequence
from dataclasses import asdict

from mlcls_jax.config import Data
from mlcls_jax.data.groups import with_pattern
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.class_folders import holds_class_folders, read_class_folders
from mlcls_jax.data.readers.class_names import read_class_names
from mlcls_jax.data.readers.coco import read_coco
from mlcls_jax.data.readers.csv_labels import read_labels, with_categories
from mlcls_jax.data.readers.csv_options import csv_options
from mlcls_jax.data.readers.detection import AnnotationPolicy
from mlcls_jax.data.readers.fiftyone import read_fiftyone
from mlcls_jax.data.readers.hf import read_hf
from mlcls_jax.data.readers.label_studio import read_label_studio
from mlcls_jax.data.readers.listing import names_in
from mlcls_jax.data.readers.packed import INDEX, LABELS, MANIFEST, is_packed, read_packed
from mlcls_jax.data.readers.tfds import TfdsSet, read_tfds
from mlcls_jax.data.readers.voc import read_voc
from mlcls_jax.system.remote import is_remote


def has_folder(data: Data, place: str) -> bool:
    """Returns whether the image folder must be given separately, by data.images.

    Args:
      data: its `source` is used.
      place: the label file or data set, as in data.csv.
    """
    return data.source in ("coco", "label_studio") or (
        data.source == "csv" and not _is_packed(place)
    )


def _is_packed(place: str) -> bool:
    """Returns whether a place is a packed data set; an address of one does not end in .csv."""
    return is_packed(place) and not (is_remote(place) and place.lower().endswith(".csv"))


def read_table(
    data: Data,
    place: str,
    images: str,
    *,
    classes: Sequence[str] | None = None,
    unlabelled: bool = False,
) -> LabelTable:
    """Reads labels and the locations of their images.

    Args:
      data: the source and its options.
      place: the label file or data set, as in data.csv.
      images: the image folder, as in data.images.
      classes: all class names, for sources that may not mention every class: labels in one CSV
        column, and VOC annotations. None: the classes found.
      unlabelled: whether a CSV with file names only is accepted; see `read_labels`.

    Returns:
      A LabelTable, with its classes in the order of data.categories if that is set.

    Raises:
      ValueError: the source cannot be read; the message is one line.
    """
    if data.class_names:
        names = read_class_names(data.class_names)
        table = _read(data, place, images, classes and names.former(classes), unlabelled)
        table = names.renamed(table)
    else:
        table = _read(data, place, images, classes, unlabelled)
    return with_pattern(table, data.group_pattern, may_fit_none=unlabelled)


def _read(
    data: Data, place: str, images: str, classes: Sequence[str] | None, unlabelled: bool
) -> LabelTable:
    """The table before groups are searched in its file names."""
    policy = AnnotationPolicy(data.crowd, data.difficult, data.min_area)
    if data.source == "coco":
        table = read_coco(place, images, policy)
    elif data.source == "voc":
        table = read_voc(place, policy, classes)
    elif data.source == "folders" or (data.source == "csv" and holds_class_folders(place)):
        table = read_class_folders(place, classes, is_certain=data.source == "folders")
    elif data.source == "label_studio":
        table = read_label_studio(place, images, data.label_column, data.image_feature, classes)
    elif data.source == "fiftyone":
        table = read_fiftyone(place, data.label_column, classes)
    elif data.source == "hf":
        table = read_hf(place, data.image_feature, csv_options(data), classes, unlabelled)
    elif data.source == "tfds":
        table = read_tfds(TfdsSet(place, images, data.image_feature, data.label_feature, policy))
    else:
        return _read_csv(data, place, images, classes, unlabelled)
    return with_categories(table, data.categories)


def _read_csv(
    data: Data, place: str, images: str, classes: Sequence[str] | None, unlabelled: bool
) -> LabelTable:
    for looks_like, source in (
        (place.lower().endswith(".json"), "coco"),
        (os.path.isdir(os.path.join(os.path.expanduser(place), "Annotations")), "voc"),
    ):
        if looks_like:
            raise ValueError(f"{place} is not a label CSV; set data.source={source!r} to read it")
    folder = os.path.expanduser(place)
    if os.path.isdir(folder) and not {MANIFEST, INDEX, LABELS} & names_in(folder):
        raise ValueError(
            f"{place}: is a folder, but has neither class folders with images nor a packed data "
            "set; name a label CSV, or move each image into the folder of its class"
        )
    options = {
        "categories": data.categories or None,
        "classes": classes,
        "unlabelled": unlabelled,
        **asdict(csv_options(data)),
    }
    return (
        read_packed(place, **options)
        if _is_packed(place)
        else read_labels(place, images, **options)
    )
