"""What the cell of a class column means: 1, 0, unknown, or a number between 0 and 1."""

import re

UNKNOWN = -1
PRESENT = 0.5  # the lowest soft label that counts as present
_NUMBER = re.compile(r"(\+?1|0|-1)(?:[.,]0+)?(?:[eE][+-]?0+)?")
_DECIMAL = re.compile(r"\+?(?:[01](?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?")
PERCENT = re.compile(r"(\d+(?:[.,]\d+)?)\s*%")
_NOTHING = {"nan", "-nan", "na", "n/a", "#n/a", "#na", "<na>", "nat", "null", "none"}
STATES = {"present": 1, "positive": 1, "absent": 0, "negative": 0}  # may be names of classes
WORDS = {
    **dict.fromkeys(("true", "yes", "y", "t", "✓", "✔", "☑", "✅"), 1),
    **dict.fromkeys(("false", "no", "n", "f", "✗", "✘", "❌"), 0),
    **dict.fromkeys(("wahr", "vrai", "verdadero", "vero"), 1),  # of spreadsheets
    **dict.fromkeys(("falsch", "faux", "falso"), 0),
    **dict.fromkeys(("ja", "oui"), 1),
    **dict.fromkeys(("nein", "non"), 0),
    **dict.fromkeys((*_NOTHING, "unknown"), UNKNOWN),
    **STATES,
}


def cell_value(text: str) -> int | None:
    """Returns the label in a cell: 1, 0, UNKNOWN, or None if it is none of these."""
    text = text.strip().replace("\N{MINUS SIGN}", "-")
    if not text:
        return UNKNOWN
    if match := _NUMBER.fullmatch(text):
        return int(match[1])
    if PERCENT.fullmatch(text):
        share = _share(text)
        return int(share) if share in (0, 1) else None
    return WORDS.get(text.casefold())


def _share(text: str) -> float:
    """A percentage as a share."""
    return float(text.rstrip("% ").replace(",", ".")) / 100


def is_nothing(text: str) -> bool:
    """Returns whether a cell is empty, or says so as programs do, such as NaN."""
    return not text.strip() or text.strip().casefold() in _NOTHING


def soft_value(text: str) -> float | None:
    """Returns the label in a cell, which may be between 0 and 1; None if it is none.

    >>> soft_value("0,25"), soft_value("25 %"), soft_value("1.0"), soft_value(""), soft_value("1.5")
    (0.25, 0.25, 1, -1, None)
    """
    text = text.strip()
    if (label := cell_value(text)) is not None:
        return label
    if PERCENT.fullmatch(text):
        value = _share(text)
    elif _DECIMAL.fullmatch(text):
        value = float(text.replace(",", "."))
    else:
        return None
    return value if value <= 1 else None
