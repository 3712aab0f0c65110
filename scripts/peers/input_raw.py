"""The limit in compare_input.py: simplejpeg decodes each image at full size, nothing else."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import simplejpeg
from input_side import image_paths
from peer_worker import Step, cores

AHEAD = 2  # batches under way, so that no thread waits for another's last image


def versions() -> str:
    """Of the library."""
    return f"simplejpeg {simplejpeg.__version__}"


def build(side: str, folder: str, size: int, batch: int) -> dict[str, Step]:
    """See peer_worker.py.  A thread for each core; what is decoded is dropped at once."""
    del side, size  # there is one side, and it does not resize
    paths = cycle(image_paths(folder))
    pool = ThreadPoolExecutor(cores())
    under_way: deque[list[Future[None]]] = deque()

    def step() -> None:
        while len(under_way) < AHEAD:
            under_way.append([pool.submit(_decode, path) for path in islice(paths, batch)])
        for future in under_way.popleft():
            future.result()

    return {"batch": step}


def _decode(path: str) -> None:
    simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")
