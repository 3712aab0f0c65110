"""Pixels with more than 8 bits per channel: reads all their bits, and reduces them to 8."""

import importlib
import io
import logging
from typing import Any

import cv2
import numpy as np

from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.system.console import one_line

_TOLERANCE = 1e-3  # of floats about 0 and 1, from earlier processing
DEPTHS = (8, 10, 12, 14, 16)  # of integers: 8 in a deeper file, sensors, and all


def to_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Returns values from 0 to 255.

    Of integers, the upper 8 of the bits in use are kept.  Floats must be in [0, 1].

    Args:
        values: any shape, of integers, floats or bool; uint8 stays as it is.
        bits: in use by integers, one of DEPTHS.

    Raises:
        ImageError: a value is out of range.

    >>> to_8_bits(np.array([0, 160, 4095], np.uint16), 12).tolist()
    [0, 10, 255]
    >>> to_8_bits(np.array([0.0, 0.5, 1.0]), 16).tolist()
    [0, 128, 255]
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "uif":
        raise ImageError(f"its values are {values.dtype}; they must be integers or floats")
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            found = f"from {low:g} to {high:g}" if np.isfinite(low + high) else "not all finite"
            raise ImageError(
                f"its values are floats, {found}; they must be in [0, 1]: divide them by the "
                "largest possible value, or save integers of at most 16 bits"
            )
        return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    if values.dtype.kind == "u" and 8 * values.dtype.itemsize <= bits:
        return (values >> (bits - 8)).astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << DEPTHS[-1]:
        raise ImageError(
            f"its values are integers from {low:,} to {high:,}; they must be in [0, 65,535]: add "
            "an offset or scale them"
        )
    if high >= 1 << bits:
        raise ImageError(
            f"its largest value is {high:,}, but data.bit_depth={bits} ends at "
            f"{(1 << bits) - 1:,}; set data.bit_depth={least_depth(high)}"
        )
    return (values >> (bits - 8)).astype(np.uint8)


def least_depth(largest: int) -> int:
    """Returns the smallest of DEPTHS that holds a value.

    >>> least_depth(255), least_depth(4080), least_depth(4096)
    (8, 12, 14)
    """
    return next((depth for depth in DEPTHS if largest < 1 << depth), DEPTHS[-1])


def png_values(contents: bytes, channels: int) -> np.ndarray:
    """Returns all bits of a PNG with 16 bits per channel, which Pillow reduces to 8 in colour.

    Args:
        contents: the bytes of the file.
        channels: 2 (grey and alpha), 3 (RGB) or 4 (with alpha).

    Returns:
        uint16 [height, width, channel].

    Raises:
        ImageError: the data are damaged.
    """
    values: Any = cv2.imdecode(np.frombuffer(contents, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ImageError(damaged("PNG"))
    # OpenCV has blue first, and repeats grey if there is alpha.
    return values[..., {2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]]


def tiff_pages(contents: bytes) -> Any:
    """Returns the pages of a TIFF, at least one, read by tifffile when they are asked for.

    Args:
        contents: the bytes of the file.

    Raises:
        ImageError: tifffile is not installed, or cannot read it.
    """
    module = optional_module("tifffile", "tiff", "a TIFF with several deep channels or bands")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the error says the same
    try:
        pages = module.TiffFile(io.BytesIO(contents)).pages
        pages[0]  # reads its tags
        return pages
    except MemoryError:
        raise
    except Exception as error:  # there is no common one
        raise ImageError(damaged("TIFF", error)) from error


def bands_on_pages(contents: bytes, most: int) -> int:
    """Returns the number of pages of a TIFF that may have one band on each.

    These are pages of one channel, with equal sizes and types: not smaller copies, nor masks.

    Args:
        contents: the bytes of the file.
        most: the largest number of bands.

    Returns:
        1 if the pages are not alike, or are more.

    Raises:
        ImageError: see `tiff_pages`, or a page is damaged.
    """
    pages = tiff_pages(contents)
    try:
        count, first = len(pages), pages[0]
        kind = (first.shape, first.dtype, 1)
        is_alike = count <= most and all(
            (page.shape, page.dtype, page.samplesperpixel) == kind for page in pages
        )
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(damaged("TIFF", error)) from error
    return count if is_alike else 1


def tiff_values(contents: bytes, pages: int = 1) -> np.ndarray:
    """Returns all channels and bits of the first pages of a TIFF.

    Args:
        contents: the bytes of the file.
        pages: number of pages; several have one channel each.

    Returns:
        [height, width, channel] of the type in the file.

    Raises:
        ImageError: see `tiff_pages`, or the data are damaged.
    """
    found = tiff_pages(contents)
    try:
        if pages > 1:
            return np.stack([found[number].asarray() for number in range(pages)], axis=2)
        page = found[0]
        values = page.asarray()
        if values.ndim == 2:
            return values[..., None]
        is_planar = page.axes.index("S") == 0
        return np.ascontiguousarray(np.moveaxis(values, 0, 2)) if is_planar else values
    except MemoryError:
        raise
    except Exception as error:  # such as a missing codec
        raise ImageError(damaged("TIFF", error)) from error


def damaged(form: str, error: BaseException | None = None) -> str:
    """Returns that the data of an image are damaged, with the reason of a library.

    Args:
        form: the format, such as "PNG".
        error: what the library raised.
    """
    reason = f" ({one_line(error, limit=200)})" if error else ""
    return f"its {form} data are damaged or incomplete{reason}"


def optional_module(name: str, extra: str, kind: str) -> Any:
    """Returns a module that reads a kind of image.

    Args:
        name: of the module.
        extra: of this package, which installs it.
        kind: of image, for the message, such as "HEIC".

    Raises:
        ImageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImageError(
            f"it is {kind}, which needs {name}; run pip install 'mlcls_jax[{extra}]'"
        ) from error
