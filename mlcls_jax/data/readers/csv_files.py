"""CSV files on this machine or in a bucket."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mlcls_jax.data.readers.csv_cells import CsvCells, read_csv
from mlcls_jax.system.console import one_line
from mlcls_jax.system.remote import asked, file_system_of, is_remote


def read_csv_at(place: str | Path) -> CsvCells:
    """Reads a comma-separated UTF-8 file as text.

    Args:
      place: its path or its address.

    Raises:
      ValueError: as in `read_csv`, or the bucket cannot be read.
    """
    if not is_remote(place):
        return read_csv(place)
    address = str(place)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "labels.csv"
        try:
            copy.write_bytes(asked(file_system_of(address).cat_file, address))
            cells = read_csv(copy)
        except FileNotFoundError as error:
            raise ValueError(f"{address}: no such CSV file; check the address") from error
        except OSError as error:
            raise ValueError(f"{address} cannot be read: {one_line(error)}") from error
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), address)) from error
    columns = {name: replace(column, path=address) for name, column in cells.columns.items()}
    return CsvCells(address, columns)
