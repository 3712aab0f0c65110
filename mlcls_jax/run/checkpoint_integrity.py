"""The folders of checkpoints, by step: which are whole, and what becomes of the others.

TensorStore notices that a file is missing or cut short, and not that a bit of an array or of a
score has changed: hence SHA256SUMS in each, since format 1.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlcls_jax.system.console import print_warning
from mlcls_jax.system.files import FILE as SUMS
from mlcls_jax.system.files import damage, write_checksums

FORMAT = 1  # of what is in a checkpoint; 0 had no such number, and no checksums
METADATA, SCORE = "metadata", "metrics"  # items with what it says of itself, and its mAP
_PARTIAL = ".orbax-checkpoint-tmp"


def steps_in_folder(folder: Path) -> list[int]:
    """Of the checkpoints, newest first; none where there is no folder."""
    names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """As Orbax's JsonSave wrote it; OSError or ValueError where it cannot be read."""
    metadata = json.loads((checkpoint / METADATA / "metadata").read_text(encoding="utf-8"))
    if not isinstance(metadata, dict):
        raise ValueError("it is no JSON object")
    return metadata


def damage_of(checkpoint: Path, items: Iterable[str] | None = None) -> str:
    """What is wrong with these items of a checkpoint, or with all; "" if nothing is known to be."""
    if (checkpoint / SUMS).exists():
        return damage(checkpoint, items)
    try:
        is_old = not read_metadata(checkpoint).get("format")
    except (OSError, ValueError) as error:
        return f"{METADATA} cannot be read: {one_line(error)}"
    return "" if is_old else f"{SUMS} is missing"


def add_checksums(folder: Path, step: int) -> None:
    """Of a checkpoint whose files are all written, before Orbax gives its folder the name.

    It is called then, in the thread that writes, so that a checkpoint is never without; the files
    are read from the system's memory.  They do not count Orbax's own file beside the items, which
    changes when the folder gets its name.
    """
    partial = folder.glob(f"{step}{_PARTIAL}*")
    write_checksums(next(partial, folder / str(step)))


def remove_partial(folder: Path) -> None:
    """Removes what a save that was killed, or has failed, left: it may be what fills the disk."""
    for partial in folder.glob(f"*{_PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)


def set_damaged_aside(folder: Path) -> int | None:
    """Moves damaged checkpoints away, so that the newest is whole, and tells; its step, if any.

    Raises:
        ValueError: all are damaged; they stay, as without them the run would begin anew.
    """
    steps, damaged = steps_in_folder(folder), {}
    for step in steps:
        if not (wrong := damage_of(folder / str(step))):
            break
        damaged[step] = wrong
    if len(damaged) == len(steps) > 0:
        listed = "; ".join(f"step {step}: {wrong}" for step, wrong in damaged.items())
        raise ValueError(
            f"no checkpoint in {folder} is whole ({listed}); put a copy of one there, or name "
            "another --workdir to begin anew"
        )
    for step in steps[len(damaged) + 1 :]:  # only what the newest is compared with
        if wrong := damage_of(folder / str(step), (SCORE,)):
            damaged[step] = wrong
    newest = next((step for step in steps if step not in damaged), None)
    for step, wrong in damaged.items():
        aside = _unused(folder / f"damaged-{step}")
        (folder / str(step)).rename(aside)
        print_warning(
            f"the checkpoint of step {step} is damaged ({wrong}); it is in {aside} now, and the "
            f"run goes on from step {newest}"
        )
    return newest


def _unused(path: Path) -> Path:
    """The path, or the first of path-2, path-3 and so on that is not there."""
    number, unused = 1, path
    while unused.exists():
        number += 1
        unused = path.with_name(f"{path.name}-{number}")
    return unused


def others_of(folder: Path, step: int) -> str:
    """For an error about a checkpoint: which others there are."""
    others = [str(other) for other in reversed(steps_in_folder(folder)) if other != step]
    if not others:
        return "there is no other"
    return f"beside it there are {', '.join(others)}, for --checkpoint STEP"


def one_line(error: BaseException) -> str:
    """What an error says, for a message of one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
