"""Measures what resizing costs the CPU, and what an accelerator that resizes would leave to it.

    python scripts/measure/measure_resize.py --images FOLDER [--sizes 224 300 380 456] [--rounds 9]

Measures the CPU time of one thread per JPEG, in turns, for three tasks: full decoding only;
decoding as the trainer does and copying the result into a frame, as a resize on the device would
need; and decoding and resizing, as the trainer does.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.transforms import eval_image


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="folder of JPEGs")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[224, 300, 380, 456], help="image sizes in pixels"
    )
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    options = parser.parse_args()
    files = [path.read_bytes() for path in sorted(options.images.glob("*.jpg"))[:150]]
    if not files:
        parser.error(f"--images {options.images} contains no .jpg; choose another folder")
    for size in options.sizes:
        out = np.empty((size, size, 3), np.uint8)
        frame = np.empty(decoded_shape(files, size), np.uint8)
        ways: dict[str, Callable[[bytes], None]] = {
            "full decoding": _full,
            "decoding into a frame": partial(_framed, size=size, frame=frame),
            "decoding and resizing": partial(_resized, size=size, out=out),
        }
        seconds = np.array(
            [[_thread_time(way, files) for way in ways.values()] for _ in range(options.rounds)]
        )
        for column, name in enumerate(ways):
            share = seconds[:, 0] / seconds[:, column]
            micro = np.median(seconds[:, column]) / len(files) * 1e6
            print(f"{size} px, {name}: {micro:.0f} us, {np.median(share):.2f} of full decoding")


def decoded_shape(files: list[bytes], size: int) -> tuple[int, ...]:
    """Returns the largest shape to which one of the files is decoded for a square of that size."""
    shapes = [open_image(contents).decode(size, size).shape for contents in files]
    return tuple(map(max, zip(*shapes, strict=True)))


def _full(contents: bytes) -> None:
    simplejpeg.decode_jpeg(contents)


def _framed(contents: bytes, size: int, frame: np.ndarray) -> None:
    image = open_image(contents).decode(size, size)
    frame[: image.shape[0], : image.shape[1]] = image


def _resized(contents: bytes, size: int, out: np.ndarray) -> None:
    eval_image(open_image(contents), size=size, augment=Augment(), out=out)


def _thread_time(way: Callable[[bytes], None], files: list[bytes]) -> float:
    began = time.thread_time()
    for contents in files:
        way(contents)
    return time.thread_time() - began


if __name__ == "__main__":
    main()
