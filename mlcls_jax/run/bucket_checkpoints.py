"""Checkpoints in a bucket: downloaded when needed, and uploaded when saved.

A checkpoint in a bucket is complete if it has SHA256SUMS, its last object to be written and the
first to be deleted. All functions leave a local workdir alone.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mlcls_jax.system.bucket import Copy, copy_of
from mlcls_jax.system.files import CHECKSUMS, move


def checkpoint_of(name: str) -> str:
    """Returns the folder of the checkpoint that a file belongs to, both by names in the workdir.

    >>> checkpoint_of("checkpoints/120/model/manifest.ocdbt")
    'checkpoints/120'
    """
    return "/".join(name.split("/")[:2])


def fetched(checkpoint: Path) -> Path:
    """Returns the folder of a checkpoint after downloading what it lacks.

    Raises:
        OSError: the bucket cannot be read.
    """
    if found := copy_of(checkpoint):
        copy, name = found
        if name not in copy.whole:
            copy.download(file for file in copy.list(name) if not (copy.folder / file).exists())
            copy.whole.add(name)
    return checkpoint


def push_checkpoint(folder: Path, step: int) -> None:
    """Uploads a checkpoint that is complete in the copy.

    Args:
        folder: of the checkpoint, which may still have a temporary name.
        step: of the checkpoint.

    Raises:
        OSError: it cannot be uploaded, or another process has taken over the run.
    """
    if found := copy_of(folder):
        copy, name = found
        target = f"{PurePosixPath(name).parent}/{step}"
        names = {f"{name}/{file}": f"{target}/{file}" for file in _files(folder)}
        last = {f"{name}/{CHECKSUMS}": names.pop(f"{name}/{CHECKSUMS}")}
        copy.upload(names)
        copy.upload(last)
        copy.whole.add(target)


def prune(folder: Path, steps: Iterable[int]) -> None:
    """Deletes all other checkpoints from the bucket.

    Args:
        folder: of the checkpoints.
        steps: of those to keep.

    Raises:
        OSError: the bucket does not answer, or another process has taken over the run.
    """
    if found := copy_of(folder):
        copy, name = found
        kept = {f"{name}/{step}" for step in steps}
        saved = (file for file in copy.list(name) if file.split("/")[1].isdecimal())
        _delete(copy, (file for file in saved if checkpoint_of(file) not in kept))


def move_checkpoint(source: Path, target: Path) -> None:
    """Renames the folder of a checkpoint.

    Raises:
        OSError: it cannot be renamed.
    """
    move(source, target)
    if found := copy_of(target):
        copy, name = found
        copy.upload({f"{name}/{file}": f"{name}/{file}" for file in _files(target)})
        _delete(copy, copy.list(source.relative_to(copy.folder).as_posix()))


def _files(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def _delete(copy: Copy, names: Iterable[str]) -> None:
    """Deletes the files of checkpoints, of each SHA256SUMS first."""
    copy.delete(sorted(names, key=lambda name: not name.endswith(f"/{CHECKSUMS}")))
