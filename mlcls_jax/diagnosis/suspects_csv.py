"""The list of labels that may be wrong, which a person edits and `data.corrections` reads."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.corrections import CORRECTED, read_corrections
from mlcls_jax.data.readers.csv_writing import csv_text
from mlcls_jax.diagnosis.label_errors import Suspect
from mlcls_jax.system.files import write_text


def write_suspects(path: Path, table: LabelTable, suspects: Sequence[Suspect]) -> bool:
    """Writes the list, unless a person has begun to fill in its column `corrected`.

    Args:
        path: of the CSV.
        table: labels of the images.
        suspects: rows and columns of the table, the most probable first.

    Returns:
        Whether it was written.

    Raises:
        ValueError: the file cannot be written.
    """
    if _is_edited(path):
        return False
    write_text(path, suspects_csv(table, suspects))
    return True


def _is_edited(path: Path) -> bool:
    """Returns whether a file has more than this module has written."""
    if not path.exists():
        return False
    try:
        return bool(read_corrections(str(path)).labels)
    except ValueError:  # such as a value that is no label: a person has written it
        return True


def suspects_csv(table: LabelTable, suspects: Sequence[Suspect]) -> str:
    """Returns labels that may be wrong as a CSV.

    Args:
        table: labels of the images.
        suspects: rows and columns of the table, the most probable first.
    """
    rows = [
        {
            "filename": table.filenames[one.row],
            "class": table.classes[one.column],
            "label": one.label,
            "probability": one.probability,
            "wrong": one.wrong,
            "rank": rank,
            CORRECTED: "",
        }
        for rank, one in enumerate(suspects, 1)
    ]
    columns = ["filename", "class", "label", "probability", "wrong", "rank", CORRECTED]
    return csv_text(pd.DataFrame(rows, columns=columns), "%.6f")
