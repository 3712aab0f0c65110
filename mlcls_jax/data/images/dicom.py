"""Images in DICOM files, read by pydicom: the first frame, through the window of the file."""

import io
from typing import Any

import numpy as np

from mlcls_jax.data.images.channels import GREY, RGB
from mlcls_jax.data.images.deep_pixels import damaged, optional_module, to_8_bits
from mlcls_jax.data.images.image_error import ImageError

_MARK, _MARK_AT = b"DICM", 128  # DICOM PS3.10, section 7.1


def is_dicom(contents: bytes) -> bool:
    """Returns whether the bytes of a file are DICOM."""
    return contents[_MARK_AT : _MARK_AT + len(_MARK)] == _MARK


def dicom_header(contents: bytes) -> tuple[int, int, int, int, str]:
    """Returns height, width, channels, bits per channel, and what the channels mean.

    An image with a window has 8 bits, because the window reduces it to them.

    Args:
        contents: the bytes of the file.

    Raises:
        ImageError: pydicom is not installed, the file is damaged, or it has no image.
    """
    dataset = _dataset(contents, stop_before_pixels=True)
    height, width, samples = (
        int(dataset.get(name, default) or default)
        for name, default in (("Rows", 0), ("Columns", 0), ("SamplesPerPixel", 1))
    )
    if not height or not width:
        raise ImageError("it is a DICOM file without an image")
    if samples > 1 or _has_palette(dataset):
        return height, width, 3, 8, RGB
    bits = 8 if _has_window(dataset) else int(dataset.get("BitsStored", 8))
    return height, width, 1, bits, GREY


def dicom_pixels(contents: bytes, bits: int) -> np.ndarray:
    """Returns the first frame: uint8 [height, width, channel], with 1 channel or 3 (RGB).

    Values are rescaled by slope and intercept and mapped by the first window of the file, or by
    its table (VOI LUT).  Without either, they are reduced as in `to_8_bits`.  MONOCHROME1, whose
    smallest value is white, is inverted.

    Args:
        contents: the bytes of the file.
        bits: in use by values without a window.

    Raises:
        ImageError: the data are damaged or compressed by a codec that is not installed.
    """
    dataset = _dataset(contents)
    try:
        return _pixels(dataset, bits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # pydicom has no common one
        raise ImageError(damaged("DICOM", error)) from error


def dicom_values(contents: bytes) -> np.ndarray:
    """Returns the stored values of the first frame, as they are; errors as of `dicom_pixels`."""
    dataset = _dataset(contents)
    try:
        return _library().pixels.pixel_array(dataset, index=0)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(damaged("DICOM", error)) from error


def _pixels(dataset: Any, bits: int) -> np.ndarray:
    pixels = _library().pixels
    values = pixels.pixel_array(dataset, index=0)
    if values.ndim == 3:
        return to_8_bits(values, int(dataset.BitsStored))
    if _has_palette(dataset):
        colours = pixels.apply_color_lut(values, dataset)[..., :3]
        return to_8_bits(colours, 8 * colours.dtype.itemsize)
    if _has_window(dataset):
        values = pixels.apply_modality_lut(values, dataset)
        if "WindowCenter" in dataset:
            shares = window(
                values,
                _first(dataset.WindowCenter),
                _first(dataset.WindowWidth),
                str(dataset.get("VOILUTFunction") or "LINEAR"),
            )
        else:
            table = dataset.VOILUTSequence[0].LUTDescriptor
            shares = pixels.apply_voi(values, dataset) / ((1 << table[2]) - 1)
        grey = np.rint(255 * shares).astype(np.uint8)
    else:
        grey = to_8_bits(values, bits)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = 255 - grey
    return grey[..., None]


def window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Returns the share of full brightness of each value (DICOM PS3.3, C.11.2.1.2).

    Args:
        values: after the rescale slope and intercept.
        center, width: of the window, in the same unit.
        function: "LINEAR", "LINEAR_EXACT" or "SIGMOID".

    Returns:
        Float64, from 0 to 1.

    Raises:
        ImageError: the width is too small, or the function is another one.

    >>> window(np.array([-160, 40, 240]), 40, 401, "LINEAR").round(4).tolist()
    [0.0012, 0.5012, 1.0]
    """
    values = np.asarray(values, np.float64)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width < 0 or (width == 0 and function != "LINEAR"):
        raise ImageError("its window is empty; correct WindowWidth")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise ImageError(f"its VOILUTFunction {function!r} is unknown")
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _has_window(dataset: Any) -> bool:
    given = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    return None not in given or bool(dataset.get("VOILUTSequence"))


def _has_palette(dataset: Any) -> bool:
    return dataset.get("PhotometricInterpretation") == "PALETTE COLOR"


def _first(value: Any) -> float:
    """The first of several windows."""
    return float(value[0] if hasattr(value, "__len__") else value)


def _dataset(contents: bytes, stop_before_pixels: bool = False) -> Any:
    module = _library()
    try:
        return module.dcmread(io.BytesIO(contents), stop_before_pixels=stop_before_pixels)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(damaged("DICOM", error)) from error


def _library() -> Any:
    optional_module("pydicom.pixels", "dicom", "DICOM")
    return optional_module("pydicom", "dicom", "DICOM")
