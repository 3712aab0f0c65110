"""The limit in compare_input.py: simplejpeg decodes each image at full size and does no more."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import simplejpeg
from input_side import image_paths
from peer_worker import Step, cores

IN_FLIGHT = 2  # batches decoded at a time, so that no thread waits for another's last image


def versions() -> str:
    """Returns the version of the library."""
    return f"simplejpeg {simplejpeg.__version__}"


def build(side: str, folder: str, size: int, batch: int) -> dict[str, Step]:
    """Returns the steps for peer_worker.py, with one thread per core; results are dropped."""
    del side, size  # there is one side, and it does not resize
    paths = cycle(image_paths(folder))
    pool = ThreadPoolExecutor(cores())
    in_flight: deque[list[Future[None]]] = deque()

    def step() -> None:
        while len(in_flight) < IN_FLIGHT:
            in_flight.append([pool.submit(_decode, path) for path in islice(paths, batch)])
        for future in in_flight.popleft():
            future.result()

    return {"batch": step}


def _decode(path: str) -> None:
    simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")
