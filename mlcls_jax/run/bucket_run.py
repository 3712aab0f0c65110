"""Opens the workdir of a run, which may be an address."""

import shutil
from pathlib import Path

from mlcls_jax.run.bucket_checkpoints import checkpoint_of
from mlcls_jax.run.checkpoint_integrity import (
    FOLDER,
    METADATA,
    SCORE,
    check_regular,
    steps_in_folder,
)
from mlcls_jax.system.bucket import Copy, copy_at, list_again
from mlcls_jax.system.files import CHECKSUMS, cache_folder
from mlcls_jax.system.remote import is_remote, was_address

_COPIES = "runs"  # in the cache folder
_LIGHT = (METADATA, SCORE)  # items that tell which checkpoint is which


def open_workdir(workdir: str | Path) -> Path:
    """Returns the folder of a run, which holds only files and folders; see `check_regular`.

    Args: see `local_folder`.

    Raises:
        ValueError: there is something else in the folder, or as for `local_folder`.
        OSError: the bucket cannot be read.
    """
    folder = local_folder(workdir)
    check_regular(folder.expanduser())
    return folder


def local_folder(workdir: str | Path) -> Path:
    """Returns the folder of a path or an address; for an address, a local copy without the arrays.

    Args:
        workdir: a path, or an address such as gs://bucket/run.

    Raises:
        ValueError: the address has no folder, or the package of its protocol is missing.
        OSError: the bucket cannot be read.
    """
    if not is_remote(workdir):
        if was_address(workdir):
            raise ValueError(
                f"{workdir} was an address before it became a pathlib.Path; pass it as a string"
            )
        return Path(workdir)
    copy = copy_at(str(workdir), cache_folder() / _COPIES)
    list_again(lambda: _list_checkpoints(copy))
    return copy.folder


def _list_checkpoints(copy: Copy) -> None:
    """Makes the folders of all complete checkpoints, with their metadata and scores."""
    folder = copy.folder / FOLDER
    if not folder.is_dir():
        return
    names = copy.list(FOLDER)
    for step in steps_in_folder(folder):
        if f"{FOLDER}/{step}/{CHECKSUMS}" not in names:
            shutil.rmtree(folder / str(step))
            copy.whole.discard(f"{FOLDER}/{step}")
    light = [
        name
        for name in names
        if f"{checkpoint_of(name)}/{CHECKSUMS}" in names
        and not (copy.folder / name).exists()
        and (name.split("/")[2] in _LIGHT or name.count("/") == 2)
    ]
    copy.download(sorted(light))
