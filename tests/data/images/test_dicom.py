"""DICOM files, compared with pydicom's own window."""

import io

import numpy as np
import pytest

from mlcls_jax.data.images.decoding import decode
from mlcls_jax.data.images.header import read_header
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat

pydicom = pytest.importorskip("pydicom")

VALUES = np.random.default_rng(0).integers(0, 4096, (13, 17), dtype=np.uint16)
ONE = PixelFormat(channels=1)


def dicom(values=VALUES, photometric="MONOCHROME2", **fields):
    """A file with 12 bits in use, uncompressed."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    frames = values[None] if values.ndim == 2 or values.shape[-1] == 3 else values
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    is_colour = frames.shape[-1] == 3
    dataset.SamplesPerPixel = 3 if is_colour else 1
    if is_colour:
        dataset.PlanarConfiguration = 0
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = 8 * frames.dtype.itemsize
    dataset.BitsStored = 8 if is_colour else 12
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(frames.dtype.kind == "i")
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = frames.tobytes()
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


WINDOWS = [
    {"WindowCenter": 1000, "WindowWidth": 800},
    {"WindowCenter": [1000, 50], "WindowWidth": [801, 10]},
    {"WindowCenter": 1000, "WindowWidth": 800, "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": 1000, "WindowWidth": 800, "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": 40, "WindowWidth": 400, "RescaleSlope": 0.5, "RescaleIntercept": -1024},
]


@pytest.mark.parametrize("fields", WINDOWS)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_window_of_the_file_is_that_of_pydicom(fields, photometric):
    contents = dicom(photometric=photometric, **fields)
    dataset = pydicom.dcmread(io.BytesIO(contents))
    values = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
    seen = pydicom.pixels.apply_voi_lut(values, dataset)
    slope, intercept = fields.get("RescaleSlope", 1), fields.get("RescaleIntercept", 0)
    expected = 255 * (seen - intercept) / (4095 * slope)
    if photometric == "MONOCHROME1":
        expected = 255 - expected
    decoded = decode(contents, ONE)
    assert np.abs(decoded[..., 0] - expected).max() <= 0.51
    np.testing.assert_array_equal(decode(contents), np.repeat(decoded, 3, axis=2))
    assert read_header(contents).bits == 8


def test_without_a_window_the_bits_in_use_decide():
    contents = dicom()
    np.testing.assert_array_equal(
        decode(contents, PixelFormat(channels=1, bits=12))[..., 0], VALUES >> 4
    )
    assert read_header(contents)[4:7] == (1, "grey", 12)
    inverted = decode(dicom(photometric="MONOCHROME1"), PixelFormat(channels=1, bits=12))
    np.testing.assert_array_equal(inverted[..., 0], 255 - (VALUES >> 4))
    with pytest.raises(ImageError, match="integers from -5"):
        decode(dicom(np.array([[-5, 3]], np.int16)))


def test_the_first_frame_is_taken():
    frames = np.stack([VALUES, VALUES[::-1]])
    fields = {"WindowCenter": 2048, "WindowWidth": 4096}
    np.testing.assert_array_equal(decode(dicom(frames, **fields)), decode(dicom(**fields)))


def test_colours():
    colours = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(dicom(colours, "RGB")), colours)


def test_damaged_files_are_image_errors():
    contents = dicom(WindowCenter=40, WindowWidth=400)
    for damaged in (contents[:-100], contents[:400], contents[:140]):
        with pytest.raises(ImageError, match="DICOM"):
            decode(damaged)
