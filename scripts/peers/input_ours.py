"""Our sides of compare_input.py: the batches of training."""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from input_side import CROP_SHARE, LABELS
from peer_worker import Step

import mlcls_jax
from mlcls_jax.config import Augment, Data
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.loaders.cache_build import with_cache
from mlcls_jax.data.loaders.loader import Reader, Rows, train_batches
from mlcls_jax.data.readers.csv_labels import read_labels

STEPS = 1_000_000  # more than are measured
LIBRARIES = ("simplejpeg", "cv2", "PIL")  # libraries that may read images


def versions() -> str:
    """Returns the versions of the package and of the libraries with which it reads images."""
    used = [f"{name} {sys.modules[name].__version__}" for name in LIBRARIES if name in sys.modules]
    return f"mlcls_jax {mlcls_jax.__version__} on {', '.join(used)}"


def build(side: str, folder: str, size: int, batch: int) -> dict[str, Step]:
    """Returns the steps for peer_worker.py."""
    sides = {"ours": ours_squash, "ours-crop": ours_crop, "ours-cached": ours_cached}
    batches = sides[side](Path(folder), size, batch)
    batches = chain([next(batches)], batches)  # imports the libraries, for versions()
    return {"batch": lambda: next(batches)}


def ours_squash(folder: Path, size: int, batch: int) -> Iterator[Batch]:
    """Returns batches of whole images with otherwise default augmentation, decoded each time."""
    return _batches(folder, size, batch, Augment(train_resize="squash"))


def ours_crop(folder: Path, size: int, batch: int) -> Iterator[Batch]:
    """Returns batches of random crops, drawn as on the torch side, decoded each time."""
    return _batches(folder, size, batch, Augment(train_resize="random_crop", min_scale=CROP_SHARE))


def ours_cached(folder: Path, size: int, batch: int) -> Iterator[Batch]:
    """Returns the batches of ours_squash from the decoded cache on disk, which is made first."""
    augment = Augment(train_resize="squash")
    data = Data(cache="disk", cache_folder=str(folder / "cache"))
    paths = read_labels(folder / LABELS, folder).paths
    reader = with_cache(Reader(), data, augment, size, "train", paths)
    return _batches(folder, size, batch, augment, reader)


def _batches(
    folder: Path, size: int, batch: int, augment: Augment, reader: Reader | None = None
) -> Iterator[Batch]:
    return train_batches(
        read_labels(folder / LABELS, folder),
        first_step=0,
        last_step=STEPS,
        rows=Rows(batch, 0, batch),
        size=size,
        augment=augment,
        seed=0,
        reader=reader,
    )
