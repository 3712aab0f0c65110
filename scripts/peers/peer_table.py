"""Tables of compare_input.py and compare_peers.py."""

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown; the first row is the header."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def spread(middle: float, least: float, most: float, digits: int | None = None) -> str:
    """Returns the text "middle (least–most)"; by default figures below 10 have more digits."""
    if digits is None:
        digits = 2 if middle < 10 else 1
    return f"{middle:.{digits}f} ({least:.{digits}f}–{most:.{digits}f})"
