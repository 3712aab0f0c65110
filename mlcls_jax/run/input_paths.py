"""Checks that the files and folders which a command reads exist, before anything is read.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlcls_jax.config import Data
from mlcls_jax.config.named import DEMO
from mlcls_jax.system.invocation import command
from mlcls_jax.system.remote import exists, is_remote


def check_input(path: str, kind: str, advice: str) -> None:
    """Checks that a file or a folder exists.

    Args:
        path: a path or an address; "" if it was not given.
        kind: "file" or "folder", for the message.
        advice: what to do, for the message.

    Raises:
        ValueError: it does not exist, or the package of its protocol is missing.
        OSError: its bucket cannot be read.
    """
    if path and not (exists(path) if is_remote(path) else Path(os.path.expanduser(path)).exists()):
        raise ValueError(f"{path}: no such {kind}; {advice}")


def check_inputs(inputs: Sequence[str], images: str) -> None:
    """Checks that the images exist that a command names.

    Args:
        inputs: images and folders, or one CSV of file names.
        images: folder of the images in the CSV; "" if it was not given.

    Raises:
        ValueError: one does not exist, or is on the web.
    """
    if is_list(inputs):
        check_input(inputs[0], "CSV file", "check the path")
        check_input(images, "folder", "check --images")
    else:
        check_images(inputs)


def is_list(inputs: Sequence[str]) -> bool:
    """Returns whether the inputs are one CSV of file names."""
    return len(inputs) == 1 and inputs[0].lower().endswith(".csv")


def check_images(inputs: Sequence[str]) -> None:
    """Raises ValueError if an image or folder does not exist, or is on the web."""
    for given in inputs:
        path = Path(given)
        if given.lower().startswith(("http://", "https://")):
            raise ValueError(
                f"{given}: an address of the web is no file or folder; download the image"
            )
        if not (exists(given) if is_remote(given) else path.is_dir() or path.is_file()):
            raise ValueError(f"{given}: no such file or folder; check the path")


def check_data(data: Data, prefixes: Iterable[str], has_options: bool = True) -> None:
    """Checks that the paths of a data set exist; the readers check what they hold.

    Args:
        data: section of the config.
        prefixes: of the fields to check: "" for data.csv and data.images, "val_", "test_".
        has_options: whether --csv and --images are options of the command.

    Raises:
        ValueError: one does not exist.
    """
    if data.source in ("tfds", "hf"):  # names of data sets
        return
    for prefix in prefixes:
        if not getattr(data, f"{prefix}csv"):
            continue
        for name, kind in (("csv", "file"), ("images", "folder")):
            path = getattr(data, f"{prefix}{name}")
            is_option = has_options and not prefix
            advice = f"check --{name} (data.{name})" if is_option else f"check data.{prefix}{name}"
            if Path(path).absolute().parent == DEMO.absolute():
                advice = f"{command('demo')} makes it"
            check_input(path, kind, advice)


def check_training_data(data: Data) -> None:
    """Checks that the data of a training is named and exists.

    Raises:
        ValueError: data.csv is empty, or a path does not exist.
    """
    if not data.csv:
        raise ValueError(
            "config: data.csv is empty; name your data, as in --csv labels.csv --images photos"
        )
    check_data(data, ("", "val_"))
    check_input(data.class_names, "file", "check data.class_names")
    check_input(data.corrections, "file", "check data.corrections")
