"""Random numbers and orientations in TensorFlow operations."""

import io

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.data.images.jpeg_header import read_jpeg_header
from mlcls_jax.data.loaders.loader import tf_module
from mlcls_jax.data.sampling import uniforms

pytestmark = pytest.mark.reference


@pytest.mark.parametrize("seed", [0, 42, 2**31 - 1])
@pytest.mark.parametrize("count", [1, 4, 41])
def test_random_numbers_are_those_of_numpy(seed, count):
    epochs, indices = np.array([0, 1, 2**40, 7]), np.array([5, 0, 12_345_678, 2**33])
    found = tf_module("tf_random").uniforms_of(seed, epochs, indices, count)
    np.testing.assert_array_equal(found, uniforms(seed, epochs, indices, count))


def jpeg(orientation=None, entries=0, **options):
    file, exif = io.BytesIO(), Image.Exif()
    for tag in range(entries):
        exif[0x0080 + tag] = "x" * 40  # tags are sorted, these come before the orientation
    if orientation is not None:
        exif[0x0112] = orientation
    if orientation is not None or entries:
        options["exif"] = exif.tobytes()
    Image.new("RGB", (20, 10)).save(file, "JPEG", **options)
    return file.getvalue()


BIG_ENDIAN = (
    b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6
)
CASES = {
    "none": jpeg(),
    "progressive": jpeg(progressive=True),
    **{f"orientation {value}": jpeg(value) for value in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)},
    "without orientation": jpeg(entries=5),
    "many entries": jpeg(6, entries=6),
    "too many entries": jpeg(6, entries=60),
    "comment": jpeg(3, comment=b"hello"),
    "profile": jpeg(icc_profile=bytes(3000)),
    "big endian": jpeg(exif=BIG_ENDIAN),
    "metadata": jpeg(xmp=b'<x tiff:Orientation="6"/>'),
    "cut": jpeg(6)[:40],
    "no JPEG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "empty": b"",
}


def test_orientations_are_those_of_the_headers_or_uncertain():
    import tensorflow as tf

    contents = list(CASES.values())
    orientations, known = tf_module("tf_orientation").orientations(tf.constant(contents))
    found = dict(zip(CASES, zip(orientations.numpy(), known.numpy(), strict=True), strict=True))
    for name, (orientation, certain) in found.items():
        header = read_jpeg_header(CASES[name]) if len(CASES[name]) > 100 else None
        if certain:
            assert header is not None and orientation == header.orientation, name
    certain = {name for name, (_, is_known) in found.items() if is_known}
    usual = {"none", "progressive", "many entries", "comment", "big endian"}
    assert certain >= usual | {f"orientation {value}" for value in range(1, 9)}
    assert not certain & {"metadata", "no JPEG", "empty", "too many entries"}
