"""The options of the readers of label files."""

from dataclasses import dataclass

from mlcls_jax.config import Data

SPLIT_COLUMN = Data().split_column
GROUP_COLUMN = "group"  # in the CSVs that are written
_ESCAPES = {"\\t": "\t", "\\n": "\n"}  # as messages write them


@dataclass(frozen=True)
class CsvOptions:
    """How to read a label CSV; see the fields of the same names of `config.Data`.

    delimiter: data.label_delimiter.
    max_missing: the largest share of the images that may be missing; they stay in the table.
    """

    filename_column: str = "filename"
    split_column: str = SPLIT_COLUMN
    group_column: str = ""
    val_values: str = ""
    test_values: str = ""
    delimiter: str = ""
    label_column: str = ""
    confidence_column: str = ""
    label_columns: str = ""
    ignore_columns: str = ""
    minus_one: str = ""
    empty_cells: str = ""
    max_missing: float = 0.0


def csv_options(data: Data) -> CsvOptions:
    """Returns the options of a config."""
    return CsvOptions(
        filename_column=data.filename_column,
        split_column=data.split_column,
        group_column=data.group_column,
        val_values=data.val_values,
        test_values=data.test_values,
        delimiter=_ESCAPES.get(data.label_delimiter, data.label_delimiter),
        label_column=data.label_column,
        confidence_column=data.confidence_column,
        label_columns=data.label_columns,
        ignore_columns=data.ignore_columns,
        minus_one=data.minus_one,
        empty_cells=data.empty_cells,
        max_missing=data.max_bad_fraction if data.on_bad_image == "skip" else 0.0,
    )
