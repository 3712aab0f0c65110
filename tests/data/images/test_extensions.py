"""Extensions fit what Pillow wrote."""

import io

import pytest
from PIL import Image

from mlcls_jax.data.images.extensions import extension_of


@pytest.mark.parametrize(
    ("pillow_format", "extension"),
    [
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("WEBP", "webp"),
        ("TIFF", "tif"),
    ],
)
def test_extensions(pillow_format, extension):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, pillow_format)
    assert extension_of(buffer.getvalue()) == extension
