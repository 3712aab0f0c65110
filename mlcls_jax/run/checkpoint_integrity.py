"""The folders of checkpoints: which are there, how damaged ones are found and where they move.

TensorStore notices a missing or truncated file, but not a flipped bit in an array or a score. Each
checkpoint therefore contains SHA256SUMS.
"""

import json
import os
import shutil
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlcls_jax.run.bucket_checkpoints import fetched, move_checkpoint
from mlcls_jax.system.console import print_warning
from mlcls_jax.system.files import damage, write_checksums

FORMAT = 1  # of the contents of a checkpoint
METADATA, SCORE = "metadata", "metrics"  # names of items; the score is that of evaluation.best
FOLDER = "checkpoints"  # in the workdir
FOLD = "fold-"  # name of the folder of a fold in the workdir, before its number
EVENTS = "tensorboard"  # folder of TensorBoard events in the workdir
REPLACED = "replaced"  # folder in that of the checkpoints, of those that are being deleted
_PARTIAL = ".orbax-checkpoint-tmp"


def has_checkpoint(workdir: Path) -> bool:
    """Returns whether the workdir contains a complete checkpoint; without one, it is new."""
    return bool(saved_steps(workdir))


def has_run(workdir: Path) -> bool:
    """Returns whether a run, or one of its folds, has a complete checkpoint."""
    return has_checkpoint(workdir) or any(map(has_checkpoint, fold_folders(workdir)))


def fold_folders(workdir: Path) -> list[Path]:
    """Returns the folders of the folds that a workdir has, such as fold-0, in order."""
    numbers = (path.name.removeprefix(FOLD) for path in Path(workdir).glob(f"{FOLD}*"))
    return [fold_folder(workdir, n) for n in sorted(int(n) for n in numbers if n.isdecimal())]


def fold_folder(workdir: Path, fold: int) -> Path:
    """Returns the folder of the run that is validated on a fold."""
    return Path(workdir) / f"{FOLD}{fold}"


def check_regular(workdir: Path) -> None:
    """Checks that a workdir holds only files and folders, because it may be from anybody.

    What is behind a link would be read or written elsewhere, and reading a device or a FIFO may
    never end.  The workdir itself may be a link.  Folders that are not of a run are not searched.

    Raises:
        ValueError: names the first link, device, FIFO or socket.
    """
    for parent, folders, files in os.walk(workdir):
        for path in (Path(parent, name) for name in (*folders, *files)):
            with suppress(FileNotFoundError):  # a training replaces its checkpoints
                mode = path.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    kind = "link" if stat.S_ISLNK(mode) else "device, FIFO or socket"
                    raise ValueError(
                        f"{path} is a {kind}; a run is read and written only inside its own "
                        "folder, so remove it, or replace it by a file or folder"
                    )
        if Path(parent) == workdir:
            own = (FOLDER, EVENTS)
            folders[:] = [name for name in folders if name in own or name.startswith(FOLD)]


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of the complete checkpoints of a workdir, oldest first."""
    return steps_in_folder(Path(workdir) / FOLDER)[::-1]


def steps_in_folder(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, newest first; none without a folder."""
    names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def check_step(folder: Path, steps: Collection[int], which: str) -> None:
    """Checks that a folder has a checkpoint.

    Args:
        folder: of the checkpoints.
        steps: of the checkpoints in it, oldest first.
        which: "best", "latest" or the number of a step.

    Raises:
        ValueError: there is no such checkpoint.
    """
    if not steps and (folds := fold_folders(folder.parent)):
        raise ValueError(
            f"{folder.parent} holds {len(folds)} folds and no model of all images; name one of "
            f"them, such as {folds[0]}, or train one with the same command and --refit"
        )
    if not steps:
        raise ValueError(f"{folder} holds no checkpoint yet; train in it first")
    is_step = which.isdecimal() and int(which) in steps
    if which not in ("best", "latest") and not is_step:
        raise ValueError(
            f"checkpoint {which!r} is not in {folder}; choose best, latest or one of "
            f"{', '.join(map(str, steps))}"
        )


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """Returns the metadata of a checkpoint, as Orbax's JsonSave wrote it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a JSON object.
    """
    metadata = json.loads((checkpoint / METADATA / "metadata").read_text(encoding="utf-8"))
    if not isinstance(metadata, dict):
        raise ValueError("it is not a JSON object")
    return metadata


def add_checksums(folder: Path, step: int) -> Path:
    """Writes the checksums of a checkpoint whose files are all written, and returns its folder.

    The thread that saves calls this before Orbax renames the folder to its final name, so a
    checkpoint is never without checksums. At that time the files are still in the page cache. The
    checksums do not cover Orbax's own file next to the items, which the renaming changes.

    Args:
        folder: of the checkpoints.
        step: of the checkpoint.
    """
    partial = folder.glob(f"{step}{_PARTIAL}*")
    checkpoint = next(partial, folder / str(step))
    write_checksums(checkpoint)
    return checkpoint


def remove_partial(folder: Path) -> None:
    """Removes what failed or killed saves have left, which may be what fills the disk."""
    remove_replaced(folder)
    for partial in folder.glob(f"*{_PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)


def remove_replaced(folder: Path) -> None:
    """Deletes the checkpoints that new ones have replaced."""
    shutil.rmtree(folder / REPLACED, ignore_errors=True)


def set_damaged_aside(folder: Path) -> int | None:
    """Moves damaged checkpoints to damaged-STEP, with a warning, so that the newest is intact.

    Returns:
        The step of the newest checkpoint; None if there is no checkpoint.

    Raises:
        ValueError: all checkpoints are damaged. They stay in place, because without them the run
            would start from scratch.
    """
    steps, damaged = steps_in_folder(folder), {}
    for step in steps:
        if not (problem := damage(fetched(folder / str(step)))):
            break
        damaged[step] = problem
    if len(damaged) == len(steps) > 0:
        listed = "; ".join(f"step {step}: {problem}" for step, problem in damaged.items())
        raise ValueError(
            f"no checkpoint in {folder} is intact ({listed}); restore a copy of one, or choose "
            "another --workdir to start from scratch"
        )
    for step in steps[len(damaged) + 1 :]:  # of older ones, only the score is needed
        if problem := damage(folder / str(step), (SCORE,)):
            damaged[step] = problem
    newest = next((step for step in steps if step not in damaged), None)
    for step, problem in damaged.items():
        aside = _unused(folder / f"damaged-{step}")
        move_checkpoint(folder / str(step), aside)
        print_warning(
            f"the checkpoint of step {step} is damaged ({problem}); it was moved to {aside}, and "
            f"the run continues from step {newest}"
        )
    return newest


def _unused(path: Path) -> Path:
    """Returns the path, or the first of path-2, path-3 and so on that does not exist."""
    count, unused = 1, path
    while unused.exists():
        count += 1
        unused = path.with_name(f"{path.name}-{count}")
    return unused


def others_of(folder: Path, step: int) -> str:
    """Returns which other checkpoints exist, for an error message about one of them."""
    others = [str(other) for other in reversed(steps_in_folder(folder)) if other != step]
    if not others:
        return "there is no other checkpoint"
    return f"choose another one with --checkpoint STEP: {', '.join(others)}"
