"""The tables that the comparisons with peers print."""

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is the head."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def spread(middle: float, least: float, most: float, digits: int | None = None) -> str:
    """ "middle (least–most)", with more digits where the figure is small."""
    if digits is None:
        digits = 2 if middle < 10 else 1
    return f"{middle:.{digits}f} ({least:.{digits}f}–{most:.{digits}f})"
