"""Counts the scans of a JPEG, because each of them can cost as much time as decoding a whole image.

A decoder visits all blocks of the image for each scan of a progressive file, even for a scan of a
few bytes, so a file of 400 KB can take minutes.  Encoders write about ten scans.  The limit is that
of libtiff (`LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER`), which applies to JPEGs within TIFFs.
"""

import re
import struct

from mlcls_jax.data.images.image_error import ImageError

MAX_SCANS = 100

_START = b"\xff\xd8"
_SCAN, _END = 0xDA, 0xD9
SCAN_MARKER = bytes((0xFF, _SCAN))
# Start of frame, without the tables DHT and DAC and the reserved JPG (ITU T.81, table B.1).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = (0xC0, 0xC1)
# A marker: neither a stuffed byte, nor a restart within a scan, nor a fill byte.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_ALONE = frozenset((0x01, 0xD8))  # markers without a segment
_LENGTH = struct.Struct(">H")


def check_scans(contents: bytes) -> None:
    """Raises an ImageError if the bytes are a JPEG with more than MAX_SCANS scans.

    Args:
      contents: the bytes of a file of any format.
    """
    if contents[:2] == _START and scan_count(contents) > MAX_SCANS:
        raise ImageError(
            f"it is a JPEG with more than {MAX_SCANS} scans, which can take minutes to decode; "
            "save it again with another program"
        )


def scan_count(contents: bytes) -> int:
    """Returns the number of scans that a decoder reads; at most MAX_SCANS + 1 are counted.

    A baseline file with all components in its first scan counts as one, because decoders read no
    further.  The bytes after that scan are not searched.

    Args:
      contents: the bytes of a JPEG, complete or not.
    """
    position, scans, components = len(_START), 0, 0
    while scans <= MAX_SCANS and (found := _MARKER.search(contents, position)):
        marker, position = found[1][0], found.end()
        if marker == _END:
            break
        if marker in _ALONE:
            continue
        segment = contents[position : position + 8]
        if len(segment) < 3:
            break
        if marker in _FRAMES and not components and len(segment) == 8:
            components = segment[7] if marker in SEQUENTIAL else 256
        if marker == _SCAN:
            scans += 1
            if segment[2] == components:  # the number of components of the scan
                break
        position += _LENGTH.unpack_from(segment)[0]
    return scans
