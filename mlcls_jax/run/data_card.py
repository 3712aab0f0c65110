"""The data card of a run: data_card.json in the workdir, and what the terminal shows of it."""

import json
from pathlib import Path

from mlcls_jax.data.card.data_card import DataCard, from_json, to_json
from mlcls_jax.data.card.describe import is_shortened, rows, warnings
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
