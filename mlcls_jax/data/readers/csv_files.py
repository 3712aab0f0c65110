"""Label files on this machine or in a bucket, however their text is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mlcls_jax.data.readers.cells import CsvCells
from mlcls_jax.data.readers.csv_cells import read_csv
from mlcls_jax.data.readers.csv_format import find_format
from mlcls_jax.system.console import one_line
from mlcls_jax.system.remote import asked, file_system_of, is_remote


def read_csv_at(place: str | Path, column: str, *, named_only: bool = False) -> CsvCells:
    """Reads a table as text, with any encoding and separator that `find_format` knows.

    Args:
      place: its path or its address.
      column: the name of a column that is needed; it tells how the cells are separated.
      named_only: as in `read_csv`.

    Raises:
      ValueError: as in `read_csv`, or the bucket cannot be read.
    """
    if not is_remote(place):
        path = Path(place).expanduser()
        return read_csv(path, find_format(path, column), named_only=named_only)
    address = str(place)
    with local_copy(address) as copy:
        cells = read_csv(copy, find_format(copy, column), named_only=named_only)
    columns = {name: replace(column, path=address) for name, column in cells.columns.items()}
    return CsvCells(address, columns, cells.notes)


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """Yields a copy of a file of a bucket; messages of errors in the block name the address.

    Args:
      address: the address of the file.

    Raises:
      ValueError: the bucket has no such file, or cannot be read.
    """
    with TemporaryDirectory() as folder:
        copy = Path(folder) / address.rpartition("/")[2]
        try:
            copy.write_bytes(asked(file_system_of(address).cat_file, address))
        except FileNotFoundError as error:
            raise ValueError(f"{address}: no such file; check the address") from error
        except OSError as error:
            raise ValueError(f"{address} cannot be read: {one_line(error)}") from error
        try:
            yield copy
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), address)) from error
