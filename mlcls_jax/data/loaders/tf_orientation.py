"""The Exif orientations of a batch of JPEGs in TensorFlow operations.

TensorFlow's decoders ignore the orientation, and have no operation to read it.
"""

# TensorFlow's annotations lack some operators of tensors.
# pyright: reportOperatorIssue=false, reportArgumentType=false

import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.data.images.jpeg_header import ORIENTATION

_HEAD = 1024  # bytes in which the orientation is looked for
_SEGMENTS = 6  # before the frame
_ENTRIES = 24  # of the first directory of Exif
_APP1, _EXIF = 0xE1, tuple(b"Exif\0\0")
_FRAMES = (0xC0, 0xC1, 0xC2)
_TIFF_LITTLE, _TIFF_BIG = tuple(b"II*\0"), tuple(b"MM\0*")


def orientations(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the Exif orientation of each image, int32 [n], and whether it is certain, bool [n].

    It is uncertain if it does not stand among the first bytes, where cameras write it, or if
    another block of metadata may hold it.

    Args:
      contents: string [n].
    """
    head = tf.io.decode_raw(tf.strings.substr(contents, 0, _HEAD), tf.uint8, fixed_length=_HEAD)
    head = tf.cast(head, tf.int32)
    position = tf.fill([tf.shape(head)[0]], 2)
    ended = is_exif = at_frame = tf.zeros_like(position, tf.bool)
    for _ in range(_SEGMENTS):
        segment = _bytes(head, position, 4)
        at_frame |= ~ended & (segment[:, 0] == 0xFF) & is_in(segment[:, 1], _FRAMES)
        is_exif |= ~ended & (segment[:, 0] == 0xFF) & (segment[:, 1] == _APP1)
        ended |= is_exif | at_frame | (segment[:, 0] != 0xFF) | (position > _HEAD - 16)
        position = tf.where(ended, position, position + 2 + segment[:, 2] * 256 + segment[:, 3])
    is_exif &= tf.reduce_all(_bytes(head, position + 4, len(_EXIF)) == _EXIF, axis=1)
    found, value = _in_exif(head, position + 4 + len(_EXIF))
    found &= is_exif
    return tf.where(found, value, 1), at_frame | found


def _in_exif(head: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether the first directory of a TIFF block has a valid orientation, and its value."""
    mark = _bytes(head, start, 8)
    little = tf.reduce_all(mark[:, :4] == _TIFF_LITTLE, axis=1)
    valid = little | tf.reduce_all(mark[:, :4] == _TIFF_BIG, axis=1)

    def number(values: tf.Tensor, at: int, size: int) -> tf.Tensor:
        parts = [values[..., at + place] for place in range(size)]
        low = sum(part * 256**place for place, part in enumerate(parts))
        high = sum(part * 256**place for place, part in enumerate(reversed(parts)))
        axes = [1] * (len(values.shape) - 2)
        return tf.where(tf.reshape(little, [-1, *axes]), low, high)

    directory = start + tf.clip_by_value(number(mark, 4, 4), 0, _HEAD)
    count = number(_bytes(head, directory, 2), 0, 2)
    entries = tf.reshape(_bytes(head, directory + 2, 12 * _ENTRIES), [-1, _ENTRIES, 12])
    inside = directory[:, None] + 2 + 12 * tf.range(1, _ENTRIES + 1) <= _HEAD
    value = number(entries, 8, 2)
    match = inside & (tf.range(_ENTRIES) < count[:, None]) & (number(entries, 0, 2) == ORIENTATION)
    match &= (number(entries, 2, 2) == 3) & (number(entries, 4, 4) == 1)  # one SHORT
    match &= (value >= 1) & (value <= 8)
    unique = tf.reduce_sum(tf.cast(match, tf.int32), axis=1) == 1
    value = tf.reduce_sum(tf.where(match, value, 0), axis=1)
    return valid & unique & (directory < _HEAD - 2), value


def _bytes(head: tf.Tensor, start: tf.Tensor, count: int) -> tf.Tensor:
    """`count` bytes of each row from `start`, int32 [n, count]; the last byte beyond the end."""
    at = tf.clip_by_value(start[:, None] + tf.range(count), 0, _HEAD - 1)
    return tf.gather(head, at, axis=1, batch_dims=1)


def is_in(values: tf.Tensor, among: tuple[int, ...]) -> tf.Tensor:
    """Returns which of the values int32 [n] are among the given ones: bool [n]."""
    return tf.reduce_any(values[:, None] == tf.constant(among), axis=1)
