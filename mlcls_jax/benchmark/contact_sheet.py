"""The images of a training batch as the network sees them, with their labels, on one sheet.

Labels are written as the loss takes them: a class without a number is there, one with a number is
there by that share, and one with a question mark is unknown.
"""

from collections.abc import Iterator

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.step.programs import step_inputs

COLUMNS, GAP, LINE = 6, 6, 14  # images; pixels
_UNCHANGED = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def contact_sheet(
    augment: Augment, seed: int, batch: Batch, classes: tuple[str, ...]
) -> Image.Image:
    """All images of a batch, augmented and mixed as its step would do it.

    Args:
        augment: the section of the config.
        seed: of mixup and CutMix.
        batch: of training; uint8 [image, size, size, 3] and its labels.
        classes: names, in the order of the labels.
    """
    pixels, labels = jax.jit(step_inputs(augment, seed, _UNCHANGED))(batch)
    images = np.rint(np.asarray(pixels)).astype(np.uint8)
    return draw_grid(images, [describe_labels(row, classes) for row in np.asarray(labels)])


def describe_labels(labels: np.ndarray, classes: tuple[str, ...]) -> str:
    """The classes that are there or may be, such as "dog, cat 0.30, bird?"."""
    parts = []
    for label, name in zip(labels, classes, strict=True):
        if label == UNKNOWN:
            parts.append(f"{name}?")
        elif label > 0:
            parts.append(name if label == 1 else f"{name} {label:.2f}")
    return ", ".join(parts) or "none"


def draw_grid(images: np.ndarray, texts: list[str]) -> Image.Image:
    """uint8 [image, size, size, 3] in rows of COLUMNS, each above its text."""
    size = images.shape[1]
    columns, font = min(COLUMNS, len(images)), ImageFont.load_default(LINE - 3)
    wraps = ["\n".join(_wrap(text, font, size)) for text in texts]
    height = size + LINE * max(text.count("\n") + 1 for text in wraps) + GAP
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (size + GAP) + GAP, rows * height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (image, text) in enumerate(zip(images, wraps, strict=True)):
        row, column = divmod(number, columns)
        left, top = GAP + column * (size + GAP), GAP + row * height
        sheet.paste(Image.fromarray(image), (left, top))
        pen.multiline_text((left, top + size + 1), text, "black", font, spacing=1)
    return sheet


def _wrap(text: str, font, width: int) -> Iterator[str]:
    """Lines of at most `width` pixels, broken after commas."""
    line = ""
    for part in text.split(", "):
        longer = f"{line}, {part}" if line else part
        if line and font.getlength(longer) > width:
            yield line
            line = part
        else:
            line = longer
    yield line
