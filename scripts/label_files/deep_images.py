"""Small images of other depths and channels, and what training makes of each."""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from mlcls_jax.config import Data
from mlcls_jax.data.images.bit_depth import find_bit_depth
from mlcls_jax.data.images.decoding import decode
from mlcls_jax.data.images.pixel_format import pixel_format

HEIGHT, WIDTH = 48, 64
# From black to white, with more dark pixels than bright ones: mean 1/3.
SHARES = (np.linspace(0, 1, HEIGHT * WIDTH) ** 2).reshape(HEIGHT, WIDTH)


@dataclass(frozen=True)
class Kind:
    """A kind of image.

    Attributes:
        name: in words.
        values: what is stored, [height, width] or [height, width, channel].
        file: (values) -> the bytes of the file.
        suffix: of the file name.
        channels: model.in_channels.
    """

    name: str
    values: np.ndarray
    file: Callable[[np.ndarray], bytes]
    suffix: str = ".png"
    channels: int = 3


def grey(bits: int) -> np.ndarray:
    """Returns integers from 0 to the largest of so many bits."""
    return np.rint(SHARES * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def bands(bits: int, count: int) -> np.ndarray:
    """Returns channels that differ: each is darker than the one before it."""
    return np.stack([grey(bits) // (band + 1) for band in range(count)], axis=2)


def pillow(values: np.ndarray, form: str = "PNG") -> bytes:
    """Returns a file written by Pillow."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, form)
    return file.getvalue()


def opencv(values: np.ndarray) -> bytes:
    """Returns a PNG written by OpenCV, which takes blue first."""
    order = [2, 1, 0, 3][: values.shape[2]]
    return cv2.imencode(".png", np.ascontiguousarray(values[..., order]))[1].tobytes()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    """Returns a file written by tifffile."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="minisblack", **options)
    return file.getvalue()


def pages(values: np.ndarray) -> bytes:
    """Returns a TIFF with each channel on a page of its own."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for band in range(values.shape[2]):
            writer.write(values[..., band], photometric="minisblack")
    return file.getvalue()


def dicom(values: np.ndarray, photometric: str = "MONOCHROME2", **fields: Any) -> bytes:
    """Returns a DICOM file with 12 bits in use, and with fields such as the window."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, UID("1.2.3")
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = values.tobytes()
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def kinds() -> tuple[Kind, ...]:
    """Returns the kinds of the table."""
    window: dict[str, Any] = {"WindowCenter": 1024, "WindowWidth": 2048}
    return (
        Kind("PNG, grey", grey(8), pillow),
        Kind("PNG, grey, 12 bits in 16", grey(12), pillow),
        Kind("PNG, grey, 16 bits", grey(16), pillow),
        Kind("PNG, RGB, 16 bits", bands(16, 3), opencv),
        Kind("PNG, RGBA", bands(8, 4), pillow, channels=4),
        Kind("PNG, RGBA, 16 bits", bands(16, 4), opencv, channels=4),
        Kind("TIFF, grey, 12 bits in 16", grey(12), lambda v: pillow(v, "TIFF"), ".tif"),
        Kind("TIFF, floats", SHARES.astype(np.float32), lambda v: pillow(v, "TIFF"), ".tif"),
        Kind(
            "TIFF, 4 bands of 12 bits in 16",
            bands(12, 4),
            lambda v: tiff(v, planarconfig="contig"),
            ".tif",
            4,
        ),
        Kind("TIFF, 5 bands on pages of their own", bands(16, 5), pages, ".tif", 5),
        Kind("DICOM, 12 bits", grey(12), dicom, ".dcm"),
        Kind("DICOM, 12 bits, window 0 to 2,047", grey(12), lambda v: dicom(v, **window), ".dcm"),
        Kind("DICOM, MONOCHROME1", grey(12), lambda v: dicom(v, "MONOCHROME1"), ".dcm"),
    )


def depth_table() -> str:
    """Returns a table in Markdown: what is stored, the options, and what training reads."""
    lines = [
        "| image | stored | mean (range) | `data.bit_depth`, found | `model.in_channels` | "
        "read as uint8, mean (range) |",
        "|---|---|---|---|---|---|",
    ]
    for kind in kinds():
        contents = kind.file(kind.values)
        with tempfile.NamedTemporaryFile(suffix=kind.suffix) as file:
            Path(file.name).write_bytes(contents)
            found = find_bit_depth([file.name], 1, kind.channels)
        data = Data(bit_depth=str(found.bits) if found else "auto")
        read = decode(contents, pixel_format(data, kind.channels))
        channels = 1 if kind.values.ndim == 2 else kind.values.shape[2]
        count = "1 channel" if channels == 1 else f"{channels} channels"
        stored = f"{kind.values.dtype}, {count}"
        cells = [kind.name, stored, _described(kind.values), data.bit_depth if found else "–"]
        lines.append(f"| {' | '.join([*cells, str(kind.channels), _described(read)])} |")
    return "\n".join(lines)


def _described(values: np.ndarray) -> str:
    """The mean and the range of an image."""
    low, high, mean = values.min(), values.max(), values.mean()
    if values.dtype.kind == "f":
        return f"{mean:.3f} ({low:g}–{high:g})"
    return f"{mean:,.1f} ({low:,}–{high:,})"
