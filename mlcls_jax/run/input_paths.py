"""Checks that the files and folders which a command reads exist, before anything is read.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import os
from collections.abc import Iterable
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
