"""Process that decodes images for the server, so that a slow image can be ended.

It imports no JAX.  The server starts it with a connection (`decoders.ImageProcess`).
"""

import json
import os
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import image_libraries, open_image
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.jpeg_scans import scan_count
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.transforms import eval_image, seen_box

_JPEG = b"\xff\xd8"
_USUAL_SCANS = 10  # of a progressive JPEG


@dataclass(frozen=True)
class ImageSettings:
    """How images become inputs of the network.

    size: side in pixels.
    augment: its eval_resize and interpolation are used.
    pixels: how the run decodes images, see `open_image`.
    page_pixels: of the server.
    """

    size: int
    augment: Augment
    pixels: PixelFormat
    page_pixels: int


def main(descriptor: int) -> None:
    """Answers requests until the connection is closed.

    A request is the largest work in pixels as text, then the bytes of a file.  The answer is JSON
    with `error`, `work` (more than allowed) or `height`, `width` and `box`, and then the pixels.
    """
    connection = Connection(descriptor)
    settings: ImageSettings = connection.recv()
    with image_libraries():
        while True:
            try:
                most_work, contents = int(connection.recv_bytes()), connection.recv_bytes()
            except EOFError:
                return
            answer, pixels = answer_to(contents, most_work, settings)
            connection.send_bytes(json.dumps(answer).encode())
            if pixels is not None:
                connection.send_bytes(pixels.tobytes())


def answer_to(
    contents: bytes, most_work: int, settings: ImageSettings
) -> tuple[dict, np.ndarray | None]:
    """Returns the answer, and for a decoded image its pixels: uint8 [size, size, channel]."""
    try:
        source = open_image(contents, settings.pixels)
        height, width = source.height, source.width
        if height * width > settings.page_pixels:
            return {
                "error": f"it has {width} x {height} pixels; this server takes at most "
                f"{settings.page_pixels:,} (serve --max-pixels)"
            }, None
        work = image_work(contents, height * width)
        if work > most_work:
            return {"work": work}, None
        pixels = eval_image(source, size=settings.size, augment=settings.augment)
    except ImageError as error:
        return {"error": str(error)}, None
    except MemoryError:
        return {"error": "there is not enough memory to decode it"}, None
    box = seen_box(height, width, settings.size, settings.augment.eval_resize)
    sides = [box.top, box.left, box.height, box.width]
    return {"height": height, "width": width, "box": sides}, pixels


def image_work(contents: bytes, pixels: int) -> int:
    """Returns the work of decoding an image, in pixels of a PNG.

    A baseline JPEG takes about a quarter of the time of a PNG, and a progressive one as much.

    Args:
        contents: bytes of the file.
        pixels: width times height.
    """
    if not contents.startswith(_JPEG):
        return pixels
    scans = scan_count(contents)
    return pixels // 4 if scans <= 1 else pixels * max(scans, _USUAL_SCANS) // _USUAL_SCANS


if __name__ == "__main__":
    os.nice(int(sys.argv[2]))
    main(int(sys.argv[1]))
