"""Draws the pictures of one training batch as the network sees them, with their labels.

    python scripts/show_augmentation.py --config configs/demo.py --out augmentation.png \\
        --config.augment.rand_augment=2 --config.augment.cutmix=1.0

Look at it before a long run: what nobody can recognise in a picture, no network learns from it.
Labels are written as the loss takes them: a class without a number is there, one with a number is
there by that share, and one with a question mark is unknown.
"""

import argparse
import sys

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlcls_jax.cli import load_config
from mlcls_jax.config import Config
from mlcls_jax.data.labels import UNKNOWN
from mlcls_jax.data.pipeline import Rows, train_batches
from mlcls_jax.data.splits import load_splits
from mlcls_jax.models.lineages import Normalization
from mlcls_jax.programs import image_size, step_inputs

COLUMNS, GAP, LINE = 6, 6, 14  # pictures; pixels
AS_THEY_ARE = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def batch_of(config: Config, pictures: int, step: int) -> tuple[np.ndarray, list[str]]:
    """Pictures of a step's batch, uint8 [picture, size, size, 3], and a text for each."""
    table, size = load_splits(config.data, None)["train"], image_size(config)
    how = {"size": size, "augment": config.augment, "seed": config.seed}
    rows = Rows(config.data.batch_size, 0, min(pictures, config.data.batch_size))
    batch = next(train_batches(table, first_step=step, last_step=step + 1, rows=rows, **how))
    pixels, labels = jax.jit(step_inputs(config, AS_THEY_ARE))(batch)
    images = np.rint(np.asarray(pixels)).astype(np.uint8)
    return images, [describe(row, table.classes) for row in np.asarray(labels)]


def describe(labels: np.ndarray, classes: tuple[str, ...]) -> str:
    """The classes that are there or may be, such as "dog, cat 0.30, bird?"."""
    parts = []
    for label, name in zip(labels, classes, strict=True):
        if label == UNKNOWN:
            parts.append(f"{name}?")
        elif label > 0:
            parts.append(name if label == 1 else f"{name} {label:.2f}")
    return ", ".join(parts) or "none"


def draw_grid(images: np.ndarray, texts: list[str]) -> Image.Image:
    """The pictures in rows of COLUMNS, each above its text."""
    size = images.shape[1]
    columns, font = min(COLUMNS, len(images)), ImageFont.load_default(LINE - 3)
    rows = -(-len(images) // columns)
    wraps = [wrap(text, font, size) for text in texts]
    height = size + LINE * max(map(len, wraps)) + GAP
    sheet = Image.new("RGB", (columns * (size + GAP) + GAP, rows * height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (image, lines) in enumerate(zip(images, wraps, strict=True)):
        row, column = divmod(number, columns)
        left, top = GAP + column * (size + GAP), GAP + row * height
        sheet.paste(Image.fromarray(image), (left, top))
        pen.multiline_text((left, top + size + 1), "\n".join(lines), "black", font, spacing=1)
    return sheet


def wrap(text: str, font, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken after commas."""
    lines = [""]
    for part in text.split(", "):
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if lines[-1] and font.getlength(longer) > width:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Draws a training batch as the network sees it.")
    parser.add_argument("--config", required=True, help="config file; also --config.field=value")
    parser.add_argument("--out", required=True, help="the picture to write, such as .png")
    parser.add_argument("--pictures", type=int, default=24, help="how many (default 24)")
    parser.add_argument("--step", type=int, default=0, help="whose batch (default 0)")
    options, overrides = parser.parse_known_args(argv)
    if options.pictures < 2 or options.pictures % 2:
        parser.error("--pictures: an even number, as pictures are mixed in pairs")
    images, texts = batch_of(load_config(options.config, overrides), options.pictures, options.step)
    draw_grid(images, texts).save(options.out)
    print(f"Written: {options.out} ({len(images)} pictures)")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
