"""JSON files of annotation tools, with errors that name the file."""

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mlcls_jax.system.console import quoted

# In bytes. The largest known file, of Objects365, has 6 GB; reading it takes twice the memory.
MOST = 16 * 2**30


def read_json(path: Path, needs: str, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Returns the content of a JSON file.

    Args:
      path: the file.
      needs: which file is needed, for messages.
      object_hook: as of `json.load`.

    Raises:
      ValueError: the file cannot be read, is too large or is not JSON.
    """
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if size > MOST:
        raise ValueError(
            f"{path}: the file has {size / 2**30:.0f} GiB, more than the limit of "
            f"{MOST / 2**30:.0f} GiB; split it"
        )
    try:
        with open(path, "rb") as file:
            return json.load(file, object_hook=object_hook)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); {needs}; check that it is complete"
        ) from error


def chosen_name(path: Path, found: Collection[str], wanted: str, source: str) -> str:
    """Returns the name of the field of an export that is read.

    Args:
      path: the export.
      found: names of the fields that have labels, at least one.
      wanted: data.label_column; "": the only one.
      source: what has the labels, for the message, such as "choices of the tags".

    Raises:
      ValueError: there is no such field, or there are several.
    """
    if (wanted and wanted not in found) or (not wanted and len(found) > 1):
        raise ValueError(
            f"{path}: has {source} {quoted(sorted(found))}; set data.label_column to one of them"
        )
    return wanted or next(iter(found))
