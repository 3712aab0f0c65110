"""One sentence of the diagnosis."""

from collections.abc import Sequence
from dataclasses import dataclass

NAMED = 6  # classes or files in a sentence


@dataclass(frozen=True)
class Finding:
    """One sentence of the diagnosis.

    kind: "base rate", "too sure", "underfitting", "overfitting", "gap", "ceiling",
        "fine-tuning", "no gain", "few positives", "val unlike train", "label noise" or "nothing".
    text: with its numbers.
    next: what to try: config overrides, or sentences.
    """

    kind: str
    text: str
    next: tuple[str, ...] = ()


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more
