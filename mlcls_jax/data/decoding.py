"""The bytes of a picture file to upright colour: uint8 [height, width, 3], in TensorFlow ops."""

from collections.abc import Iterable

from mlcls_jax.data.tensorflow_cpu import tf

_CHUNK_HEAD = 10
# Real files have a handful of chunks before Exif; the limit stops a file made to waste time.
_MAX_CHUNKS = 1024
_EXIF_ORIENTATION = 0x0112
_EXIF_SHORT, _EXIF_LONG = 3, 4


def decode(contents):
    """Decodes a picture, upright and in colour.

    JPEG, PNG, GIF and WebP (first frame) and BMP; WebP needs a TensorFlow with `tf.io.decode_webp`.
    Grey, palette and CMYK become RGB, alpha is dropped and 16 bits become the upper 8, all as
    Pillow's `convert("RGB")` does, except that transparent pixels of a GIF become black and
    16-bit grey isn't cut off at 255. Exif orientation (JPEG, PNG, WebP) is applied.

    Args:
      contents: scalar string tensor, the bytes of the file.

    Returns:
      uint8 [height, width, 3].

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no picture of these formats, or damaged.
    """
    image = tf.case(
        [
            # Without INTEGER_ACCURATE, TensorFlow uses a coarser transform than anyone else.
            (
                _starts(contents, b"\xff\xd8\xff"),
                lambda: tf.io.decode_jpeg(contents, 3, dct_method="INTEGER_ACCURATE"),
            ),
            (_starts(contents, b"\x89PNG"), lambda: tf.io.decode_png(contents, 3)),
            (_starts(contents, b"BM"), lambda: _decode_bmp(contents)),
            (_starts(contents, b"RIFF"), lambda: _decode_webp(contents)),
        ],
        default=lambda: tf.io.decode_image(contents, 3, expand_animations=False),
    )
    orientation = exif_orientation(contents)
    image = tf.cond(orientation > 1, lambda: _turn_upright(image, orientation), lambda: image)
    return tf.ensure_shape(image, [None, None, 3])


def exif_orientation(contents):
    """The Exif orientation of a JPEG, PNG or WebP file: int32 scalar, 1 to 8.

    Reads tag 0x0112 of IFD0 in the file's first Exif block (Exif 2.32, sections 4.5.2 and 4.6.4).
    A file without it, or with a malformed one, has orientation 1; nothing here raises.

    Args:
      contents: scalar string tensor, the bytes of the file.
    """
    nothing = tf.constant([0, 0], tf.int64)
    begin, end = tf.unstack(
        tf.case(
            [
                (_starts(contents, b"\xff\xd8"), lambda: _find(contents, 2, _jpeg_segment)),
                (_starts(contents, b"\x89PNG"), lambda: _find(contents, 8, _png_chunk)),
                (_starts(contents, b"RIFF"), lambda: _find(contents, 12, _riff_chunk)),
            ],
            default=lambda: nothing,
        )
    )
    return tf.cond(
        begin > 0,
        lambda: _tiff_orientation(_bytes(contents, begin, end - begin)),
        lambda: tf.constant(1, tf.int32),
    )


def explain_bad_image(paths: Iterable[str]) -> str | None:
    """Finds the first picture that can't be decoded, for the message of an error in tf.data.

    An error inside `Dataset.map` doesn't say which file it was. Reads files until one fails, so
    it is meant for after a failure.

    Returns:
      One line that names the file, what is wrong with it and what to do; None if all are fine.
    """
    for path in paths:
        contents = b""
        try:
            contents = tf.io.read_file(path).numpy()
            decode(contents)
        except tf.errors.NotFoundError:
            reason = "there is no such file"
        except tf.errors.InvalidArgumentError:
            reason = _what_is_wrong(contents)
        except tf.errors.OpError as error:
            reason = " ".join(error.message.split())
        else:
            continue
        return f"picture {path} cannot be read: {reason}; replace the file or leave it out"
    return None


def _what_is_wrong(contents: bytes) -> str:
    if not contents:
        return "the file is empty"
    decoded = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
    foreign = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"ftyp": "HEIC or AVIF", b"<": "HTML or SVG"}
    for magic, name in decoded.items():
        if contents.startswith(magic):
            return f"its {name} data are damaged, incomplete or of a rare kind"
    if contents[:4] == b"RIFF" and contents[8:12] == b"WEBP":
        if not hasattr(tf.io, "decode_webp"):
            return f"TensorFlow {tf.__version__} cannot read WebP"
        return "its WebP data are damaged or incomplete"
    for magic, name in foreign.items():
        if contents.startswith(magic) or contents[4:8] == magic:
            return f"it is {name}, not JPEG, PNG, GIF, BMP or WebP"
    return "it is not JPEG, PNG, GIF, BMP or WebP"


def _turn_upright(image, orientation):
    """Undoes Exif orientations 2 to 8: transposed or not, then mirrored down and across or not."""

    def among(*values):
        return tf.reduce_any(orientation == tf.constant(values))

    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(among(3, 4, 7, 8), lambda: tf.reverse(image, [0]), lambda: image)
    return tf.cond(among(2, 3, 6, 7), lambda: tf.reverse(image, [1]), lambda: image)


def _starts(contents, magic: bytes):
    return tf.strings.substr(contents, 0, len(magic)) == magic


def _part(contents, begin, length):
    """A part of the file, or what there is of it.

    A start behind the end would be an error whose message holds the file's bytes, which Python
    then fails to read as text.
    """
    begin = tf.minimum(tf.cast(begin, tf.int64), tf.cast(tf.strings.length(contents), tf.int64))
    return tf.strings.substr(contents, begin, tf.cast(length, tf.int64))


def _bytes(contents, begin, length):
    """A part of the file, or what there is of it, as int64 values of its bytes."""
    return tf.cast(tf.io.decode_raw(_part(contents, begin, length), tf.uint8), tf.int64)


def _take(values, begin, count: int):
    """`count` of int64 [n] from `begin`, zeros where there are none; its shape is static."""
    return tf.ensure_shape(tf.pad(values[begin : begin + count], [[0, count]])[:count], [count])


def _number(values, little):
    """Unsigned integers from their bytes along the last axis; `little`: least byte first."""
    weights = [256**place for place in range(values.shape[-1])]
    weights = tf.where(little, tf.constant(weights, tf.int64), tf.constant(weights[::-1], tf.int64))
    return tf.reduce_sum(values * weights, axis=-1)


def _find(contents, start: int, parse):
    """Walks the chunks of a file; int64 [begin, end] of its Exif block, or [0, 0]."""
    size = tf.cast(tf.strings.length(contents), tf.int64)

    def searching(position, found):
        return (found[0] == 0) & (position + _CHUNK_HEAD <= size)

    def step(position, found):
        head = tf.strings.substr(contents, position, _CHUNK_HEAD)
        # One cheap op that reads the head's numbers; this loop runs for every picture.
        words = tf.io.decode_raw(head, tf.uint16, little_endian=parse is _riff_chunk)
        words = tf.cast(tf.ensure_shape(words, [_CHUNK_HEAD // 2]), tf.int64)
        following, is_exif, begin, end = parse(tf.unstack(words), head, position)
        found = tf.where(is_exif, tf.stack([begin, end]), found)
        return tf.where(following > position, following, size), found

    state = (tf.constant(start, tf.int64), tf.constant([0, 0], tf.int64))
    return tf.while_loop(searching, step, state, maximum_iterations=_MAX_CHUNKS)[1]


def _jpeg_segment(words, head, position):
    """Where the next segment is, whether this one is Exif, and where its TIFF block is."""
    marker, length = words[:2]
    end = position + 2 + length
    # Exif stands among the APPn (E0 to EF) and COM (FE) segments, before all others; any number
    # of 0xFF may precede a marker.
    is_application = ((marker >= 0xFFE0) & (marker <= 0xFFEF)) | (marker == 0xFFFE)
    following = tf.where(is_application, end, tf.where(marker == 0xFFFF, position + 1, position))
    is_exif = (marker == 0xFFE1) & (tf.strings.substr(head, 4, 6) == b"Exif\0\0")
    return following, is_exif, position + 10, end


def _png_chunk(words, head, position):
    end = position + 8 + 65536 * words[0] + words[1]
    return end + 4, tf.strings.substr(head, 4, 4) == b"eXIf", position + 8, end


def _riff_chunk(words, head, position):
    end = position + 8 + 65536 * words[3] + words[2]
    odd = tf.math.mod(words[2], 2)
    return end + odd, tf.strings.substr(head, 0, 4) == b"EXIF", position + 8, end


def _is(values, text: bytes):
    return tf.reduce_all(values == tf.constant(list(text), tf.int64))


def _tiff_orientation(block):
    """Orientation from the bytes of a TIFF block (TIFF 6.0, section 2): int32, 1 if not there."""
    # WebP files made from JPEG often keep the JPEG's prefix.
    block = block[tf.where(_is(_take(block, 0, 6), b"Exif\0\0"), 6, 0) :]
    magic = _take(block, 0, 4)
    little = _is(magic, b"II*\0")
    first = _number(_take(block, 4, 4), little)
    count = _number(_take(block, first, 2), little)
    entries = block[first + 2 :][: 12 * count]
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], [-1, 12])
    tag, kind = _number(entries[:, :2], little), _number(entries[:, 2:4], little)
    short, long = _number(entries[:, 8:10], little), _number(entries[:, 8:12], little)
    value = tf.where(kind == _EXIF_SHORT, short, tf.where(kind == _EXIF_LONG, long, 0))
    value = tf.where(_number(entries[:, 4:8], little) == 1, value, 0)
    # Where a tag is there twice, the last counts, as for Pillow.
    value = tf.concat([[1], tf.boolean_mask(value, tag == _EXIF_ORIENTATION)], axis=0)[-1]
    is_valid = (little | _is(magic, b"MM\0*")) & (value >= 1) & (value <= 8)
    return tf.cast(tf.where(is_valid, value, 1), tf.int32)


def _decode_webp(contents):
    if not hasattr(tf.io, "decode_webp"):
        return tf.io.decode_image(contents, 3, expand_animations=False)
    flags = _take(_bytes(contents, 20, 1), 0, 1)[0]
    is_animated = (_part(contents, 12, 4) == b"VP8X") & (flags // 2 % 2 == 1)

    def decode_animation():
        # TensorFlow (2.21) writes 4 channels into memory for 3 where an animation has no alpha,
        # and so corrupts the heap; with both flags set, 2 + 16, it allocates 4.
        rest = _part(contents, 21, tf.strings.length(contents))
        with_alpha = tf.strings.join([_part(contents, 0, 20), b"\x12", rest])
        return tf.io.decode_webp(with_alpha, 4)[0, :, :, :3]

    return tf.cond(is_animated, decode_animation, lambda: tf.io.decode_webp(contents)[0, :, :, :3])


def _decode_bmp(contents):
    """TensorFlow reads BMP with 24 and 32 bits; with a palette, it would return the indices."""
    head = _take(_bytes(contents, 0, 54), 0, 54)
    depth = _number(head[28:30], little=True)
    return tf.cond(
        depth > 8,
        lambda: tf.io.decode_bmp(contents)[:, :, :3],
        lambda: _decode_palette_bmp(contents, head, depth),
    )


def _decode_palette_bmp(contents, head, depth):
    """BMP of 1, 4 or 8 bits: uint8 [height, width, 3]."""
    data, info, width, rows, _, packed = (
        _number(head[at : at + 4], little=True) for at in (10, 14, 18, 22, 26, 30)
    )
    tf.debugging.Assert((packed == 0) & (depth > 0) & (width > 0), ["unusual BMP"])
    is_upward = rows < 2**31
    rows = tf.where(is_upward, rows, 2**32 - rows)
    stride = (depth * width + 31) // 32 * 4
    packed_rows = tf.reshape(_bytes(contents, data, stride * rows), [rows, stride, 1])
    shifts = tf.range(8 - depth, -1, -depth)
    indices = tf.bitwise.right_shift(packed_rows, shifts) % 2**depth
    indices = tf.reshape(indices, [rows, -1])[:, :width]
    indices = tf.cond(is_upward, lambda: tf.reverse(indices, [0]), lambda: indices)
    palette = tf.reshape(_bytes(contents, 14 + info, data - 14 - info), [-1, 4])[:, 2::-1]
    return tf.gather(tf.cast(palette, tf.uint8), indices)
