"""Names for images that have none."""

# Of the formats that are read.
EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
EXTENSIONS |= {".heic", ".heif", ".avif", ".dcm", ".dicom"}

_EXTENSIONS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}


def extension_of(contents: bytes) -> str:
    """Returns the extension that fits the contents of an image, such as "jpg".

    Args:
      contents: the bytes of a file; of an unknown format, they count as TIFF.
    """
    if contents[128:132] == b"DICM":
        return "dcm"
    if contents[4:8] == b"ftyp":
        return "avif" if contents[8:11] == b"avi" else "heic"
    return _EXTENSIONS.get(contents[:2], "tif")
