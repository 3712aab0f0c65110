"""What a look at an image tells: its size, its mode, and whether there is anything on it."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mlcls_jax.data.card.stored_files import StoredFiles
from mlcls_jax.data.images.decoding import ImageFile, open_image
from mlcls_jax.data.images.header import DAMAGED, ImageHeader, open_with_pillow, read_header
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.reading import read_file

MAX_IMAGES, MAX_BYTES = 2_000, 256_000_000  # that are looked at
MAX_FAR = 64  # of them in a bucket, where each is a request
BLACK = 20  # of 255: no value of a nearly black image is above
CONSTANT = 2  # of 255: largest difference of the values of a constant image


@dataclass(frozen=True)
class Look:
    """A look at an image that can be read.

    kind: its format and mode, such as "JPEG RGB" or "PNG I;16".
    bits: of a value of its file.
    height, width: of the upright image in pixels.
    blank: "nearly black", "constant", or "" for any other image.
    """

    kind: str
    bits: int
    height: int
    width: int
    blank: str


def sample_to_look_at(files: StoredFiles) -> list[int]:
    """Returns the images to look at: all of a small data set, else the same random ones each time.

    Args:
      files: the images.

    Returns:
      Indices in the order in which to look; at most MAX_IMAGES, of about MAX_BYTES together, with
      MAX_FAR in a bucket.
    """
    order = np.random.default_rng(0).permutation(len(files))
    far = np.array(files.far, bool)[order]
    order = order[~far | (np.cumsum(far) <= MAX_FAR)][:MAX_IMAGES]
    before = np.cumsum([0, *(max(files.sizes[row], 0) for row in order)])[:-1]
    return order[before < MAX_BYTES].tolist()


def look(path: str, pixels: PixelFormat) -> Look | str:
    """Reads an image, at the smallest fraction that its decoder has.

    Args:
      path: a path, an address or a Part.
      pixels: see `open_image`.

    Returns:
      A Look, or the reason why the image cannot be read.

    Raises:
      OSError: the disk or the network fails.
    """
    try:
        contents = read_file(path)
        image = open_image(contents, pixels)
        blank = _blank(image)
    except ImageError as error:
        return str(error)
    header = read_header(contents, pixels.channels)
    return Look(_kind(contents, header), header.bits, image.height, image.width, blank)


def _kind(contents: bytes, header: ImageHeader) -> str:
    """The format and mode by Pillow, or the number of channels where Pillow reads nothing."""
    try:
        with open_with_pillow(contents) as image:
            return f"{image.format} {image.mode}{_pages(image, header.pages)}"
    except ImageError:
        count = "1 channel" if header.channels == 1 else f"{header.channels} channels"
        return f"{header.form} {count}"


def _pages(image: Image.Image, read: int) -> str:
    """How many pages a TIFF has, if there are several, and how many of them are read."""
    try:
        count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    except DAMAGED:
        return ""
    if count == 1:
        return ""
    return f" of {count} pages ({'all are read' if read == count else 'the first is read'})"


def _blank(image: ImageFile) -> str:
    # A fraction averages: stars in a black sky, or stripes, are there only at the full size.
    blank = ""
    for least in ((1, 1), (image.height, image.width)):
        pixels = image.decode(*least)
        low, high = (f(f(pixels, axis=0), axis=0).astype(int) for f in (np.min, np.max))
        blank = "constant" if (high - low).max() <= CONSTANT else ""
        blank = "nearly black" if high.max() <= BLACK else blank
        if not blank:
            break
    return blank
