"""The number of scans of JPEGs, and files with too many."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import decode, open_image
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.jpeg_scans import MAX_SCANS, SCAN_MARKER, scan_count
from mlcls_jax.data.loaders.loader import Reader, Rows, eval_batches, tf_module

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
END = b"\xff\xd9"


def encoded(mode="RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are `count`."""
    contents = encoded(progressive=True)
    last = contents[contents.rfind(SCAN_MARKER) : -len(END)]
    more = count - contents.count(SCAN_MARKER)
    return contents[: -len(END)] + last * more + END


def not_interleaved(count: int) -> bytes:
    """A baseline JPEG whose first scan has one component of three, repeated."""
    grey = encoded("L", optimize=False)
    frame, scan = grey.find(b"\xff\xc0"), grey.find(SCAN_MARKER)
    three = grey[frame + 4 : frame + 9] + bytes((3, 1, 17, 0, 2, 17, 0, 3, 17, 0))
    head = grey[:frame] + b"\xff\xc0\x00\x11" + three + grey[frame + 13 : scan]
    return head + grey[scan : -len(END)] * count + END


def test_scans_are_counted():
    assert scan_count(encoded()) == scan_count(encoded("L")) == scan_count(encoded("CMYK")) == 1
    assert scan_count(encoded("L", progressive=True)) == 6  # the script of libjpeg
    assert scan_count(encoded(progressive=True)) == 10
    assert scan_count(with_scans(57)) == 57
    assert scan_count(not_interleaved(12)) == 12
    assert scan_count(with_scans(1_000)) == MAX_SCANS + 1


@pytest.mark.parametrize("make", [with_scans, not_interleaved])
def test_too_many_scans_are_refused_before_they_are_decoded(make):
    assert decode(make(MAX_SCANS)).shape == PIXELS.shape
    with pytest.raises(ImageError, match="more than 100 scans"):
        open_image(make(MAX_SCANS + 1))


def test_the_marker_elsewhere_is_no_scan():
    contents, markers = encoded(progressive=True), SCAN_MARKER * 500
    comment = b"\xff\xfe" + (len(markers) + 2).to_bytes(2, "big") + markers
    assert scan_count(contents[:2] + comment + contents[2:]) == 10
    assert scan_count(contents + markers) == 10  # such as a video behind the image
    before_end = contents[: -len(END)]
    assert scan_count(before_end + b"\xff" * 9 + markers[1:]) == 11  # after fill bytes
    assert scan_count(before_end + b"\xff\xfe\x00\x04\xff\xd9" + contents[2:]) == 20


@pytest.mark.parametrize("cut", range(2, 700, 13))
def test_a_file_that_ends_too_early_is_counted(cut):
    assert 0 <= scan_count(encoded(progressive=True)[:cut]) <= 10


def tiff_of(jpeg: bytes) -> bytes:
    """A TIFF whose only strip is a JPEG."""
    height, width = PIXELS.shape[:2]
    entries = [(256, 4, width), (257, 4, height), (258, 4, 8), (259, 3, 7), (262, 3, 6)]
    entries += [(273, 4, 200), (277, 3, 3), (278, 4, height), (279, 4, len(jpeg))]
    entries.append((530, 3, 2 | 2 << 16))  # colours at half the resolution, as in the JPEG
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, kind, value in entries:
        head += struct.pack("<HHII", tag, kind, 2 if tag == 530 else 1, value)
    return head.ljust(200, b"\0") + jpeg


def test_libtiff_has_the_same_limit():
    assert decode(tiff_of(with_scans(MAX_SCANS - 1))).shape == PIXELS.shape
    with pytest.raises(ImageError, match="TIFF"):
        decode(tiff_of(with_scans(MAX_SCANS + 1)))


@pytest.mark.reference
def test_tensorflow_decodes_no_file_with_too_many_scans():
    import tensorflow as tf

    plain = [encoded(), encoded("L"), encoded(progressive=True), with_scans(MAX_SCANS), b""]
    plain += [encoded(exif=b"Exif\0\0" + bytes(3_000)), encoded(xmp=b"<x/>" * 700)]
    many = [make(MAX_SCANS + 1) for make in (with_scans, not_interleaved)]
    many += [many[0][:2] + b"\xff" + many[0][2:], many[0][:2] + b"garbage" + many[0][2:]]
    has_few_scans = tf_module("tf_scans").has_few_scans
    few = has_few_scans(tf.constant(plain + many)).numpy().tolist()
    assert few == [True] * len(plain) + [False] * len(many)
    assert has_few_scans(tf.constant(plain[:2])).numpy().all()


@pytest.mark.reference
@pytest.mark.parametrize("loader", ["threads", "tf_data", "grain"])
def test_each_loader_names_the_file(tmp_path, loader):
    paths = []
    for name, contents in (("a.jpg", encoded()), ("b.jpg", with_scans(3_000))):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(contents)
    batches = eval_batches(
        list(map(str, paths)),
        rows=Rows(2, 0, 2),
        size=32,
        augment=Augment(),
        reader=Reader(loader=loader),
    )
    with pytest.raises(ValueError, match=r"b\.jpg cannot be read: it is a JPEG with more than 100"):
        list(batches)
