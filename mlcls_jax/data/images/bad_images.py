"""Images that cannot be read: an error that names the first, or a list of the skipped."""

import csv
import threading
from collections.abc import Callable
from pathlib import Path

from mlcls_jax.data.images.decoding import ImageError
from mlcls_jax.data.readers.csv_cells import for_spreadsheets, quoting

_HEADER = ("path", "reason")
SHOWN = 3  # on the terminal; all of them are in the file


class BadImages:
    """What happens at an image that cannot be read; used by all threads of a process."""

    def __init__(
        self,
        skip: bool = False,
        limit: int = 0,
        written: Path | None = None,
        tell: Callable[[str], None] | None = None,
        share: Callable[[dict[str, str]], dict[str, str]] | None = None,
    ):
        """An error at the first one, or a list.

        Args:
            skip: go on without it.
            limit: of how many.
            written: the CSV that lists them, in a folder that may be made later; see `write`.
            tell: is told of the first few.
            share: from what this process has found to what all have, where there are several.
        """
        self._skip, self._limit, self._written, self._tell = skip, limit, written, tell
        self._share = share
        self._reasons: dict[str, str] = {}
        self._others: dict[str, str] = {}  # of other processes, which may have other disks
        self._listed: set[str] | None = None  # in the file, by now or as it was found
        self._lock = threading.Lock()

    def __contains__(self, path: str) -> bool:
        return path in self._reasons

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """What is wrong, by path."""
        return self._others | self._reasons

    def summary(self) -> str:
        """One line about those that were skipped; "" if there are none."""
        if not self.reasons:
            return ""
        where = f", listed in {self._written}" if self._written else ""
        count = len(self)
        images = "1 image" if count == 1 else f"{count} images"
        return f"{images} could not be read and skipped{where}."

    def report(self, path: str, error: ImageError) -> None:
        """Notes that an image cannot be read.

        Raises:
            ValueError: it must not be skipped, or too many were.
        """
        reason = str(error)
        if not self._skip:
            raise ValueError(
                f"image {path} cannot be read: {reason}; replace the file, leave it out, or skip "
                "such: data.on_bad_image=skip, in evaluate and predict --on-bad-image skip"
            ) from error
        with self._lock:
            if path in self._reasons:
                return
            self._reasons[path] = reason
            self._write()
            if self._tell and len(self._reasons) <= SHOWN:
                self._tell(f"image {path} cannot be read: {reason}; it is skipped")
            if len(self) > self._limit:
                raise ValueError(
                    f"{len(self)} images cannot be read, which is more than "
                    f"data.max_bad_fraction allows; the last is {path}: {reason}. "
                    + (f"All are in {self._written}" if self._written else "Mend them")
                )

    def write(self) -> None:
        """Writes the list; for when its folder was not there at the first ones, or for those that
        other processes have found since."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        """Adds what the file does not list yet: an earlier start may have begun it."""
        if self._share:
            self._others = self._share(self._reasons)
        if not self.reasons or not self._written or not self._written.parent.is_dir():
            return
        try:
            if self._listed is None:
                self._listed = _paths_in(self._written)
            new = [row for row in self.reasons.items() if not self._is_listed(row[0])]
            rows = [tuple(map(for_spreadsheets, row)) for row in new]
            with open(self._written, "a", encoding="utf-8", newline="") as file:
                quotes = quoting(cell for row in rows for cell in row)
                table = csv.writer(file, lineterminator="\n", quoting=quotes)
                table.writerows(rows if file.tell() else [_HEADER, *rows])
            self._listed |= {path for path, _ in new}
        except OSError as error:
            raise ValueError(f"{self._written} cannot be written: {error}") from error

    def _is_listed(self, path: str) -> bool:
        listed = self._listed or ()
        return path in listed or for_spreadsheets(path) in listed


def _paths_in(written: Path) -> set[str]:
    if not written.exists():
        return set()
    with open(written, encoding="utf-8", newline="") as file:
        return {row[0] for row in csv.reader(file) if row}
