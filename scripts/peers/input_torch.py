"""torch's side of compare_input.py: DataLoader and Pillow with one process per core."""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

from random import Random

import numpy as np
import PIL
import torch
from input_side import image_paths, random_box
from peer_worker import Step, cores
from PIL import Image
from torch.utils.data import DataLoader, Dataset


def versions() -> str:
    """Returns the versions of the libraries."""
    return f"torch {torch.__version__} with Pillow {PIL.__version__}"


class Images(Dataset):
    """Random crops, resized with Pillow's antialiasing and mirrored with probability 1/2."""

    def __init__(self, paths: list[str], size: int):
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        rng = Random(int(torch.randint(2**31, ())))  # torch's seed differs in each process
        box = random_box(rng, *image.size)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image))


def build(side: str, folder: str, size: int, batch: int, workers: int = 0) -> dict[str, Step]:
    """Returns the steps for peer_worker.py, with one process per core unless `workers` is set."""
    del side  # there is only one
    # Each image is listed `batch` times, so that every batch is full and epochs end rarely.
    loader = DataLoader(
        Images(image_paths(folder) * batch, size),
        batch_size=batch,
        shuffle=True,
        num_workers=workers or cores(),
        persistent_workers=True,
    )

    def endless():
        while True:
            yield from loader

    batches = endless()
    return {"batch": lambda: next(batches)}
