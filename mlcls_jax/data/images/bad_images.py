"""Handles images that cannot be read: stops at the first, or skips and lists them."""

import csv
import io
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.readers.csv_writing import for_spreadsheets, quoting
from mlcls_jax.system.files import append, is_full

_HEADER = ("path", "reason")
SHOWN = 3  # number printed on the terminal; the file lists all


class BadImages:
    """Stops at the first image that cannot be read, or skips such images; thread-safe."""

    def __init__(
        self,
        skip: bool = False,
        limit: int = 0,
        written: Path | None = None,
        tell: Callable[[str], None] | None = None,
        share: Callable[[dict[str, str]], dict[str, str]] | None = None,
    ):
        """Creates an empty list.

        Args:
          skip: whether to skip images that cannot be read; otherwise the first one is an error.
          limit: the largest number of images to skip.
          written: the CSV that lists them; its folder may be created later (see `write`).
          tell: called with a message about each of the first few images.
          share: with several processes, exchanges reasons by path: takes those of this process and
            returns those of all.
        """
        self._skip, self._limit, self._written, self._tell = skip, limit, written, tell
        self._share = share
        self._reasons: dict[str, str] = {}
        self._others: dict[str, str] = {}  # of other processes, whose files may be different
        self._listed: set[str] | None = None  # paths in the CSV; None: it has not been read
        self._lock = threading.Lock()
        self._is_full = False  # the disk was full at the last write

    def __contains__(self, path: str) -> bool:
        return path in self._reasons

    def __len__(self) -> int:
        return len(self.reasons)

    def among(self, paths: Sequence[str]) -> np.ndarray:
        """Returns which of the paths this process could not read: bool [n]."""
        return np.array([path in self for path in paths], bool)

    @property
    def reasons(self) -> dict[str, str]:
        """The reason why each image cannot be read, by path."""
        return self._others | self._reasons

    @property
    def own_reasons(self) -> dict[str, str]:
        """The reasons that this process has found, by path."""
        return dict(self._reasons)

    def summary(self) -> str:
        """Returns one line about the skipped images; "" if there are none."""
        if not self.reasons:
            return ""
        location = f", listed in {self._written}" if self._written else ""
        count = len(self)
        if count == 1:
            return f"1 image could not be read and was skipped{location}."
        return f"{count} images could not be read and were skipped{location}."

    def report(self, path: str, error: ImageError) -> None:
        """Records that an image cannot be read.

        Args:
          path: the path of the image.
          error: the reason.

        Raises:
          ValueError: images must not be skipped, or too many were skipped.
        """
        reason = str(error)
        if not self._skip:
            raise ValueError(
                f"image {path} cannot be read: {reason}; replace the file, remove its row, or skip "
                "such images: data.on_bad_image=skip, or --on-bad-image skip in evaluate and "
                "predict"
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
                    f"{len(self)} images cannot be read, more than data.max_bad_fraction allows; "
                    f"the last is {path}: {reason}; replace them or raise data.max_bad_fraction"
                    + (f"; all are listed in {self._written}" if self._written else "")
                )

    def write(self) -> None:
        """Writes the list again.

        Needed if its folder did not exist at the first images, or if other processes have found
        more of them.
        """
        with self._lock:
            self._write()

    def _write(self) -> None:
        """Appends the images that the file does not list; a continued run already has a file."""
        if self._share:
            self._others = self._share(self._reasons)
        if not self.reasons or not self._written or not self._written.parent.is_dir():
            return
        try:
            if self._listed is None:
                self._listed = _paths_in(self._written)
            new = [row for row in self.reasons.items() if not self._is_listed(row[0])]
            if new:
                append(self._written, _csv(new, with_header=not self._listed), sync=False)
            self._listed |= {path for path, _ in new} | {_HEADER[0]}
        except OSError as error:
            if is_full(error) and self._tell:
                if not self._is_full:
                    self._tell(
                        f"{self._written} cannot be written ({error.strerror}); the next "
                        "image that cannot be read will be listed with this one"
                    )
                self._is_full = True
                return
            raise ValueError(
                f"{self._written}, the list of bad images, cannot be written: {error}"
            ) from error

    def _is_listed(self, path: str) -> bool:
        listed = self._listed or ()
        return path in listed or for_spreadsheets(path) in listed


def _csv(rows: Iterable[tuple[str, str]], with_header: bool) -> bytes:
    shown = [tuple(map(for_spreadsheets, row)) for row in rows]
    text = io.StringIO(newline="")
    quotes = quoting(cell for row in shown for cell in row)
    table = csv.writer(text, lineterminator="\n", quoting=quotes)
    table.writerows([_HEADER, *shown] if with_header else shown)
    return text.getvalue().encode()


def _paths_in(written: Path) -> set[str]:
    if not written.exists():
        return set()
    with open(written, encoding="utf-8", newline="") as file:
        return {row[0] for row in csv.reader(file) if row}
