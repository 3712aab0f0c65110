"""CSV files that are safe to open in a spreadsheet, and that are read back unchanged.

A spreadsheet runs a cell that begins like a formula
(owasp.org/www-community/attacks/CSV_Injection).  Where semicolons or tabs separate cells, as in
many countries, such a cell can begin within one of ours.  An apostrophe is put before each such
beginning; `unescaped_cell` removes it again.
"""

import csv
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

# What begins a formula; the last four are full-width forms.  Apostrophes before it are those of an
# earlier escape, or of a name: with one more, the escape can always be removed.
_FORMULA = r"(?='*(?:[^\S\t\r\n]*[=+\-@＝＋－＠]|[\t\r\n]))"
_CELL = r"(\A|[;\t\r\n])"  # where a cell begins, whatever separates cells
_ESCAPE, _UNESCAPE = re.compile(_CELL + _FORMULA), re.compile(f"{_CELL}'{_FORMULA}")


def escaped_cell(text: str) -> str:
    r"""Returns a text as a cell that a spreadsheet shows and does not run.

    >>> print(escaped_cell("=1+1"), escaped_cell("x;=1+1"), escaped_cell("plain-name"))
    '=1+1 x;'=1+1 plain-name
    """
    return _ESCAPE.sub(r"\1'", text)


def unescaped_cell(text: str) -> str:
    """Returns the text that `escaped_cell` has turned into this one.

    >>> print(unescaped_cell("'=1+1"), unescaped_cell(escaped_cell("'=1+1")), unescaped_cell("'a"))
    =1+1 '=1+1 'a
    """
    return _UNESCAPE.sub(r"\1", text) if "'" in text else text


def for_spreadsheets(text: str) -> str:
    r"""Returns a name as an escaped cell, with bytes that are not UTF-8 as `\udc80` to `\udcff`."""
    return escaped_cell(text.encode(errors="backslashreplace").decode())


def quoting(texts: Iterable[str]) -> Literal[0, 1]:
    """Returns the quoting with which these cells must be written.

    The csv module does not quote a cell because of a carriage return in it.
    """
    return csv.QUOTE_ALL if any("\r" in text for text in texts) else csv.QUOTE_MINIMAL


def csv_text(frame: "pd.DataFrame", float_format: str | None = None) -> str:
    """Returns a table as a CSV, with all its text escaped.

    Args:
      frame: the columns; its index is left out.
      float_format: of the numbers, such as "%.6f"; None for as many digits as they have.
    """
    import pandas as pd  # imported late: takes half a second, and not all callers write a table

    escaped, texts = frame.copy(deep=False), list(map(str, frame.columns))
    for i, dtype in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):  # numbers are no text
            column = frame.iloc[:, i]
            distinct = [text for text in pd.unique(column) if isinstance(text, str)]
            texts += distinct
            changed = {text: cell for text in distinct if (cell := for_spreadsheets(text)) != text}
            if changed:
                escaped.isetitem(i, [changed.get(text, text) for text in column])
    escaped.columns = [for_spreadsheets(name) for name in map(str, frame.columns)]
    return escaped.to_csv(
        index=False, lineterminator="\n", float_format=float_format, quoting=quoting(texts)
    )
