"""Contact sheet: the images of a training batch as the network sees them, with names and labels.

An image that mixup or CutMix has mixed has the name of the one that it began with.  The labels are
those that the loss gets. A class without a number has the label 1, a class with a number has that
label, for example after mixup, and a class with a question mark is unknown.
"""

import unicodedata
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.images.channels import as_rgb
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.step.programs import step_inputs

# Fonts that Pillow looks for in the folders of Linux, macOS and Windows.
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
COLUMNS, GAP, LINE = 6, 6, 14  # images per row; pixels between images; pixels per line of text
NAME = "#5e5e58"  # colour of file names


def contact_sheet(
    augment: Augment, seed: int, batch: Batch, classes: tuple[str, ...], names: Sequence[str]
) -> Image.Image:
    """Draws all images of a training batch, augmented and mixed as in its training step.

    Args:
        augment: section of the config.
        seed: for mixup and CutMix.
        batch: images, uint8 [image, size, size, channel], and their labels; see `as_rgb`.
        classes: class names, in the order of the labels.
        names: file names of the images.
    """
    channels = batch.image.shape[-1]
    unchanged = Normalization((0.0,) * channels, (1.0,) * channels)
    pixels, labels = jax.jit(step_inputs(augment, seed, unchanged))(batch)
    images = as_rgb(np.rint(np.asarray(pixels)).astype(np.uint8))
    texts = [describe_labels(row, classes) for row in np.asarray(labels)]
    return draw_grid(images, texts, names)


def describe_labels(labels: np.ndarray, classes: tuple[str, ...]) -> str:
    """Returns the labels of an image as text, such as "dog, cat 0.30, bird?".

    Args:
        labels: float [class]; 0 to 1, or UNKNOWN.
        classes: class names.
    """
    parts = []
    for label, name in zip(labels, classes, strict=True):
        if label == UNKNOWN:
            parts.append(f"{name}?")
        elif label > 0:
            share = f"{label:.2f}" if label >= 0.005 else "<0.01"
            parts.append(name if label == 1 else f"{name} {share}")
    return ", ".join(parts) or "none"


def draw_grid(images: np.ndarray, texts: Sequence[str], names: Sequence[str]) -> Image.Image:
    """Draws images in rows of COLUMNS, each above its name and its text.

    Args:
        images: uint8 [image, size, size, 3].
        texts: one for each image.
        names: the same.
    """
    size = images.shape[1]
    columns, font = min(COLUMNS, len(images)), _font()
    texts, names = ([_drawable(text, font) for text in part] for part in (texts, names))
    wraps = ["\n".join(_wrap(text, font, size)) for text in texts]
    height = size + LINE * max(text.count("\n") + 2 for text in wraps) + GAP
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (size + GAP) + GAP, rows * height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (image, text, name) in enumerate(zip(images, wraps, names, strict=True)):
        row, column = divmod(index, columns)
        left, top = GAP + column * (size + GAP), GAP + row * height
        sheet.paste(Image.fromarray(image), (left, top))
        pen.text((left, top + size + 1), _fit(name, font, size), NAME, font)
        pen.multiline_text((left, top + size + 1 + LINE), text, "black", font, spacing=1)
    return sheet


def _font():
    """Returns a font of the system that has most scripts, or the one of Pillow, for English."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, LINE - 3)
        except OSError:
            continue
    return ImageFont.load_default(LINE - 3)


def _drawable(text: str, font) -> str:
    """Returns a text without the accents that the font does not have, such as "u" for "ü"."""
    missing = bytes(font.getmask("\uffff"))

    def shown(letter: str) -> str:
        if letter.isascii() or bytes(font.getmask(letter)) != missing:
            return letter
        parts = unicodedata.normalize("NFKD", letter.replace("ß", "ss"))
        return "".join(part for part in parts if part.isascii()) or "?"

    return "".join(map(shown, unicodedata.normalize("NFC", text)))


def _wrap(text: str, font, width: int) -> Iterator[str]:
    """Yields lines of at most `width` pixels, broken after commas."""
    line = ""
    for part in text.split(", "):
        longer = f"{line}, {part}" if line else part
        if line and font.getlength(f"{longer},") > width:
            yield f"{line},"
            line = part
        else:
            line = longer
    yield line


def _fit(name: str, font, width: int) -> str:
    """Returns the end of a file name, which tells it from others, in at most `width` pixels."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    shown = name
    while len(shown) > 2 and font.getlength(shown) > width:
        name = name[1:]
        shown = f"…{name}"
    return shown
