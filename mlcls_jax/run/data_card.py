"""The data card of a run: data_card.json in the workdir, and what the terminal shows of it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlcls_jax.data.card.data_card import DataCard, from_json, to_json
from mlcls_jax.data.card.describe import is_shortened, near_warning, rows, warnings
from mlcls_jax.data.card.near_duplicates import near_duplicates
from mlcls_jax.run.workdir import DATA_CARD
from mlcls_jax.system.console import console, print_table, print_warning
from mlcls_jax.system.files import write_text


def write_card(workdir: Path, card: DataCard) -> bool:
    """Writes data_card.json; a full disk costs a warning. Returns whether it was written."""
    try:
        write_text(workdir / DATA_CARD, json.dumps(to_json(card), indent=1) + "\n")
    except ValueError as error:
        print_warning(f"{error}; training continues")
        return False
    return True


def read_card(workdir: Path) -> DataCard | None:
    """Returns the data card of a run; None if it has none that can be read."""
    try:
        return from_json(json.loads((workdir / DATA_CARD).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def print_card(card: DataCard, place: str, file: Path | None) -> None:
    """Prints a data card; its notes and first warnings are printed where the labels are read.

    Args:
        card: of the run.
        place: the label file or data set, as in data.csv.
        file: data_card.json; None if it was not written.
    """
    if Path(place).is_relative_to(Path.cwd()):  # the config has absolute paths
        place = str(Path(place).relative_to(Path.cwd()))
    print_table("", ["data", place], [list(row) for row in rows(card).items()])
    for warning in warnings(card):
        print_warning(warning)
    if file and is_shortened(card):
        console.print(f"All images and classes concerned are in {file}.")


def show_near_duplicates(
    workdir: Path, features: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]]
) -> None:
    """Compares train and val of a new run by features, and adds what it finds to the data card.

    Args:
        workdir: of the run.
        features: by split, [image, channel].
        names: by split, the file names of the images.
    """
    card = read_card(workdir)
    if card is None:  # the disk is full, or a person has removed it
        return
    pairs = near_duplicates(features["train"], features["val"], names["train"], names["val"])
    card = dataclasses.replace(card, near_duplicates=[list(pair) for pair in pairs])
    if warning := near_warning(card):
        write_card(workdir, card)
        print_warning(warning)
