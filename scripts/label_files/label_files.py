"""A label file in some layout with its images, and what the reader makes of it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mlcls_jax.config import Config, Data
from mlcls_jax.config.checks import validate
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.read_table import has_folder, read_table

IMAGES = 16
# The labels of image i: class j is present if bit j of i is set.
PRESENT = [[bool(i >> j & 1) for j in range(3)] for i in range(IMAGES)]


@dataclass(frozen=True)
class Layout:
    """A label file and its images.

    Attributes:
        name: of the data set or the case.
        file: name of the label file; "": the images are in class folders.
        content: text or bytes of the label file, in which {folder} is the place of the images.
        images: names of the images below `folder`.
        options: fields of `data` that are needed.
        expected: names of the classes and how often each is present; None if it is refused.
        folder: the image folder.
    """

    name: str
    file: str
    content: str | bytes
    images: list[str]
    options: dict[str, str] = field(default_factory=dict)
    expected: Mapping[str, int] | None = None
    folder: str = "images"

    @property
    def command(self) -> str:
        """The options as they are typed."""
        return " ".join(f"data.{name}={shlex.quote(value)}" for name, value in self.options.items())


def write(layout: Layout, place: Path) -> Data:
    """Writes a label file and its images, and returns the fields that name them."""
    folder = place / layout.folder
    for i, name in enumerate(layout.images):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG" if name.endswith("png") else "JPEG")
    content = layout.content
    if isinstance(content, str):
        content = content.replace("{folder}", str(folder)).encode()
    if layout.file:
        (place / layout.file).write_bytes(content)
    data = Data(csv=str(place / layout.file) if layout.file else str(folder))
    for name, value in layout.options.items():
        setattr(data, name, type(getattr(data, name))(value))
    data.images = str(folder) if has_folder(data, data.csv) else ""
    validate(Config(data=data))
    return data


def read(data: Data) -> LabelTable:
    """Reads the labels."""
    return read_table(data, data.csv, data.images)


def printed(layout: Layout, place: Path) -> str:
    """Returns the line that is printed for a label file, or the error."""
    place.mkdir()
    try:
        notes = read(write(layout, place)).notes
    except ValueError as error:
        notes = (f"error: {error}",)
    text = " ".join(notes).replace(f"{place / layout.folder}: ", "")
    return text.replace(f"{place}/{layout.file}: ", "").replace(f"{place}/", "") or "–"
