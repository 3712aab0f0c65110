"""Our sides of compare_input.py: the batches of training, by each of our loaders."""

import sys
from collections.abc import Iterator
from importlib.metadata import version
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
# All of them flip images; crops are those of the torch side.
PLAIN = Augment(train_resize="squash")
CROP = Augment(train_resize="random_crop", min_scale=CROP_SHARE)
RAND_AUGMENT = Augment(train_resize="squash", rand_augment=2, magnitude=9.0)
# Side -> data.loader and augmentation.
SIDES = {
    "ours": ("threads", PLAIN),
    "ours-crop": ("threads", CROP),
    "ours-randaugment": ("threads", RAND_AUGMENT),
    "ours-tf-data": ("tf_data", PLAIN),
    "ours-tf-data-crop": ("tf_data", CROP),
    "ours-tf-data-randaugment": ("tf_data", RAND_AUGMENT),
    "ours-grain": ("grain", PLAIN),
    "ours-grain-crop": ("grain", CROP),
    "ours-grain-randaugment": ("grain", RAND_AUGMENT),
    "ours-cached": ("threads", PLAIN),
}
# Modules that may read images, and the packages that they come from.
LIBRARIES = {
    "simplejpeg": "simplejpeg",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "tensorflow": "tensorflow",
    "grain": "grain",
}


def versions() -> str:
    """Returns the versions of the package and of the libraries with which it reads images."""
    used = [f"{name} {_version(name)}" for name in LIBRARIES if name in sys.modules]
    return f"mlcls_jax {mlcls_jax.__version__} on {', '.join(used)}"


def _version(module: str) -> str:
    """The version that a module states, or else that of its package."""
    return getattr(sys.modules[module], "__version__", None) or version(LIBRARIES[module])


def build(side: str, folder: str, size: int, batch: int, threads: int = 0) -> dict[str, Step]:
    """Returns the steps for peer_worker.py.

    Args:
        side: a key of SIDES; ours-cached reads from the decoded cache, which is made first.
        folder: folder of the images.
        size: side of the batches' images in pixels.
        batch: images per batch.
        threads: number of threads; 0: as many as by default.
    """
    loader, augment = SIDES[side]
    reader = Reader(loader=loader, threads=threads)
    if side == "ours-cached":
        data = Data(cache="disk", cache_folder=str(Path(folder, "cache")))
        paths = read_labels(Path(folder, LABELS), Path(folder)).paths
        reader = with_cache(reader, data, augment, size, "train", paths)
    batches = _batches(Path(folder), size, batch, augment, reader)
    batches = chain([next(batches)], batches)  # imports the libraries, for versions()
    return {"batch": lambda: next(batches)}


def _batches(
    folder: Path, size: int, batch: int, augment: Augment, reader: Reader
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
