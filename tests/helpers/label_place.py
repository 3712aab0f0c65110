"""A folder of images without content, and label files next to it."""

from pathlib import Path

import pytest

from mlcls_jax.config import Data
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.read_table import read_table


class Place:
    """A folder of images, and a label file next to it."""

    def __init__(self, root: Path):
        self.root, self.images = root, root / "images"
        self.images.mkdir()

    def add(self, *names: str) -> None:
        for name in names:
            path = self.images / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def read(self, text: str | bytes, name: str = "labels.csv", **fields) -> LabelTable:
        path = self.root / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(Data(**fields), str(path), str(self.images))

    def note(self, table: LabelTable) -> str:
        """The line that says how the file was understood; "" if it was as documented."""
        assert len(table.notes) <= 1 and "\n" not in "".join(table.notes)
        return "".join(table.notes).removeprefix(f"{self.root / 'labels.csv'}: ")

    def refusal(self, text: str | bytes, **fields) -> str:
        with pytest.raises(ValueError) as caught:
            self.read(text, **fields)
        message = str(caught.value)
        assert type(caught.value) is ValueError and "\n" not in message
        assert message.startswith(str(self.root))
        return message
