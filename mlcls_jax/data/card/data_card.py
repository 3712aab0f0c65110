"""The data card: what a data set is, and what may be wrong with it, before the first step."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlcls_jax.data.card.file_facts import FileFacts, file_facts
from mlcls_jax.data.card.label_facts import LabelFacts, label_facts
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.label_table import LabelTable

VERSION = 1


@dataclass(frozen=True)
class DataCard:
    """What is known of the data of a run.

    notes: how the label files were understood.
    warnings: about classes without positive or negative labels.
    labels: what the labels tell.
    files: what the files of the images tell.
    near_duplicates: images of train and val that look almost alike, [train, val, cosine], as far as
      they were compared.
    """

    notes: list[str]
    warnings: list[str]
    labels: LabelFacts
    files: FileFacts
    near_duplicates: list[list[Any]] = field(default_factory=list)

    @property
    def images(self) -> int:
        """The number of images of all splits."""
        return sum(split["images"] for split in self.labels.splits.values())


def make_card(
    splits: Mapping[str, LabelTable], warnings: list[str], pixels: PixelFormat, threads: int
) -> DataCard:
    """Returns the data card of a run.

    Args:
      splits: the table of each split, train first.
      warnings: from `check_train`.
      pixels: see `open_image`.
      threads: number of threads that read images.
    """
    notes = [note for table in splits.values() for note in table.notes]
    return DataCard(
        notes=list(dict.fromkeys(notes)),
        warnings=warnings,
        labels=label_facts(splits),
        files=file_facts(splits, pixels, threads),
    )


def to_json(card: DataCard) -> dict[str, Any]:
    """Returns a card as the content of a JSON file."""
    return {"version": VERSION, **dataclasses.asdict(card)}


def from_json(content: Any) -> DataCard | None:
    """Returns the card that `to_json` made into this content; None if it is of another version."""
    if not isinstance(content, dict) or content.pop("version", None) != VERSION:
        return None
    try:
        labels, files = LabelFacts(**content.pop("labels")), FileFacts(**content.pop("files"))
        return DataCard(**content, labels=labels, files=files)
    except (KeyError, TypeError):
        return None
