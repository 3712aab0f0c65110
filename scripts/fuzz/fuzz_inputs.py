"""Damaged files for fuzz.py, each derived from sound files and a number."""

import functools
import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ODD_TEXT = ("", "../../etc/passwd", "a\nb", "\x1b[2J", "\0", "=1+1", "\u202e", "\ud800", "x" * 3000)
ODD_TEXT += ("nan", "-1", "1e999", "best", "(a+)+$", "(")
ODD_TEXT += ("9" * 400 + " steps", "9" * 400 + " epochs")
ODD_NUMBERS = (0, -1, 1, 0.5, -0.5, 2**31, 2**63, -(2**63), 10**400, 1e308, 1e-320)
ODD: tuple = (*ODD_TEXT, *ODD_NUMBERS, float("nan"), float("inf"), True, False, None, [], {})
ODD += ([[[[]]]], {"a": {"a": {}}}, [0] * 1000, [None], [float("nan")] * 3, {"": 1})
_ORIENTATION = 0x0112
_HEADER = 128  # bytes that contain most numbers of a format


def _noise(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _smooth(height: int, width: int) -> Image.Image:
    return _noise(6, 6).resize((width, height), Image.Resampling.BICUBIC)


def _translucent() -> Image.Image:
    image = _noise(13, 17)
    image.putalpha(_noise(13, 17, seed=1).convert("L"))
    return image


def _oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = value
    exif[0x0110] = "a camera"
    return exif


@functools.cache
def sound_files() -> dict[str, bytes]:
    """Returns {kind: contents} with a small image file of every kind."""
    small, photo, wide = _noise(13, 17), _smooth(48, 64), _smooth(150, 200)
    grey, palette, alpha = small.convert("L"), small.quantize(32), _translucent()
    deep = Image.fromarray(
        np.random.default_rng(2).integers(0, 65536, (13, 17), dtype=np.uint16)  # 16 bits
    )
    frames = {"save_all": True, "append_images": [_noise(13, 17, seed=1)]}
    indexed = {"save_all": True, "append_images": [_noise(13, 17, seed=1).quantize(8)]}
    kinds: dict[str, tuple[Image.Image, str, dict]] = {
        "jpeg": (photo, "JPEG", {}),
        "jpeg wide": (wide, "JPEG", {"quality": 60}),
        "jpeg full chroma": (photo, "JPEG", {"subsampling": 0}),
        "jpeg progressive": (wide, "JPEG", {"quality": 60, "progressive": True}),
        "jpeg restart": (photo, "JPEG", {"restart_marker_blocks": 2}),
        "jpeg grey": (photo.convert("L"), "JPEG", {}),
        "jpeg cmyk": (photo.convert("CMYK"), "JPEG", {}),
        "jpeg exif": (photo, "JPEG", {"exif": _oriented(6)}),
        "jpeg mpo": (photo, "MPO", {"save_all": True, "append_images": [photo]}),
        "png": (small, "PNG", {}),
        "png grey": (grey, "PNG", {}),
        "png 1 bit": (small.convert("1"), "PNG", {}),
        "png palette": (palette, "PNG", {"transparency": 3}),
        "png 16 bit": (deep, "PNG", {}),
        "png alpha": (alpha, "PNG", {"exif": _oriented(8)}),
        "png grey alpha": (alpha.convert("LA"), "PNG", {}),
        "png animated": (small, "PNG", frames),
        "gif": (palette, "GIF", {}),
        "gif interlaced": (photo.quantize(64), "GIF", {"interlace": 1}),
        "gif grey": (grey, "GIF", {"interlace": 0}),
        "gif animated": (palette, "GIF", indexed),
        "bmp": (small, "BMP", {}),
        "bmp grey": (grey, "BMP", {}),
        "bmp alpha": (alpha, "BMP", {}),
        "bmp palette": (palette, "BMP", {}),
        "bmp 1 bit": (small.convert("1"), "BMP", {}),
        "webp": (photo, "WEBP", {}),
        "webp lossless": (small, "WEBP", {"lossless": True, "exif": _oriented(3)}),
        "webp alpha": (alpha, "WEBP", {}),
        "webp animated": (small, "WEBP", frames),
        "tiff": (small, "TIFF", {}),
        "tiff lzw": (small, "TIFF", {"compression": "tiff_lzw"}),
        "tiff deflate": (alpha, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tiff packbits": (palette, "TIFF", {"compression": "packbits"}),
        "tiff jpeg": (photo, "TIFF", {"compression": "jpeg"}),
        "tiff fax": (photo.convert("1"), "TIFF", {"compression": "group4"}),
        "tiff cmyk": (small.convert("CMYK"), "TIFF", {}),
        "tiff 16 bit": (deep, "TIFF", {}),
        "tiff float": (Image.fromarray(np.asarray(grey, np.float32) / 255), "TIFF", {}),
        "tiff pages": (small, "TIFF", frames),
    }
    files = {}
    for name, (image, image_format, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        files[name] = buffer.getvalue()
    return files


def damaged(number: int, files: list[bytes]) -> bytes:
    """Returns one of the files with one to four mutations, which depend on the number only."""
    draw = random.Random(number)
    data = bytearray(draw.choice(files))
    for _ in range(draw.choice((1, 1, 2, 4))):
        draw.choice(_MUTATIONS)(data, draw, files)
    if data.startswith(b"\x89PNG") and draw.random() < 0.7:
        _fix_checksums(data)  # otherwise no code after the check would be reached
    return bytes(data)


def changed(value: Any, draw: random.Random) -> Any:
    """Returns JSON data with a value, at any depth, replaced, removed or added."""
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, copy = draw.choice(keys), value.copy()
        action = draw.randrange(6)
        if action == 0:
            del copy[key]
        elif action > 1:
            copy[key] = changed(value[key], draw)
        elif isinstance(copy, dict):
            copy[draw.choice((*ODD_TEXT, *copy))] = draw.choice(ODD)
        else:
            copy.append(draw.choice(ODD))
        return copy
    return draw.choice(ODD)


def _place(data: bytearray, draw: random.Random) -> int:
    """An index; half of them are in the header."""
    end = min(len(data), _HEADER) if draw.random() < 0.5 else len(data)
    return draw.randrange(end) if end else 0


def _slice(data: bytearray, draw: random.Random) -> slice:
    start = _place(data, draw)
    return slice(start, start + draw.choice((1, 2, 4, 8, 64, 512)))


def _flip_bits(data, draw, files) -> None:
    for _ in range(draw.choice((1, 1, 2, 8)) if data else 0):
        data[_place(data, draw)] ^= 1 << draw.randrange(8)


def _set_bytes(data, draw, files) -> None:
    for _ in range(draw.choice((1, 1, 2, 8)) if data else 0):
        data[_place(data, draw)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _set_number(data, draw, files) -> None:
    code = draw.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(code)
    value = draw.choice(EXTREMES) & (256**size - 1)
    start = _place(data, draw)
    if start + size <= len(data):
        data[start : start + size] = struct.pack(code, value)


def _cut_end(data, draw, files) -> None:
    del data[_place(data, draw) :]


def _cut_out(data, draw, files) -> None:
    del data[_slice(data, draw)]


def _insert(data, draw, files) -> None:
    start = _place(data, draw)
    data[start:start] = draw.randbytes(draw.choice((1, 2, 4, 64)))


def _duplicate(data, draw, files) -> None:
    chunk, start = bytes(data[_slice(data, draw)]), _place(data, draw)
    data[start:start] = chunk * draw.choice((1, 1, 2, 16))


def _swap(data, draw, files) -> None:
    size = draw.choice((1, 4, 16, 128))
    one, other = sorted((_place(data, draw), _place(data, draw)))
    if one + size <= other and other + size <= len(data):
        ours, theirs = data[one : one + size], data[other : other + size]
        data[one : one + size], data[other : other + size] = theirs, ours


def _splice(data, draw, files) -> None:
    start = _place(data, draw)
    other = draw.choice(files)
    data[start:] = other[draw.randrange(len(other)) if draw.random() < 0.5 else start :]


_MUTATIONS = (
    *(_flip_bits, _set_bytes, _set_number, _set_number, _cut_end),
    *(_cut_out, _insert, _duplicate, _swap, _splice),
)


def _fix_checksums(data: bytearray) -> None:
    """Recomputes the checksum of every PNG chunk."""
    start = 8
    while start + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, start)
        end = start + 8 + size
        if end + 4 > len(data):
            return
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start + 4 : end]))
        start = end + 4
