"""Finds JPEGs with too many scans in TensorFlow operations, before TensorFlow decodes them."""

# TensorFlow's annotations lack some operators of tensors.
# pyright: reportOperatorIssue=false, reportArgumentType=false

import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.data.images.jpeg_scans import MAX_SCANS, SCAN_MARKER, SEQUENTIAL

_SEGMENTS = 32  # before the first scan; files with more are searched as a whole
_BYTES = 10  # of a segment that are read: marker, length and the head of a frame


def has_few_scans(contents: tf.Tensor) -> tf.Tensor:
    """Returns whether each JPEG has at most MAX_SCANS scans: bool [n].

    Files that are not plain baseline JPEGs are searched for the marker of a scan.  Metadata may
    contain its bytes, so False can be wrong; `scan_count` is exact.

    Args:
      contents: string [n].
    """
    is_plain = _has_one_scan(contents)
    others = tf.where(~is_plain)[:, 0]

    def search() -> tf.Tensor:
        parts = tf.strings.split(tf.gather(contents, others), SCAN_MARKER).row_lengths()
        few = tf.cast(parts, tf.int32) <= MAX_SCANS + 1
        return tf.tensor_scatter_nd_update(is_plain, others[:, None], few)

    return tf.cond(tf.size(others) > 0, search, lambda: is_plain)


def _has_one_scan(contents: tf.Tensor) -> tf.Tensor:
    """Whether the first scan of each baseline JPEG has all components: bool [n]."""
    sizes = tf.strings.length(contents)
    none = tf.zeros_like(sizes)

    def step(at: tf.Tensor, components: tf.Tensor, ended: tf.Tensor, plain: tf.Tensor):
        start = tf.minimum(at, sizes)
        head = tf.strings.substr(contents, start, tf.fill(tf.shape(start), _BYTES))
        head = tf.cast(tf.io.decode_raw(head, tf.uint8, fixed_length=_BYTES), tf.int32)
        marker = head[:, 1]
        in_segment = (head[:, 0] == 0xFF) & (marker >= 0xC0) & (marker != 0xFF)
        is_frame = (marker == SEQUENTIAL[0]) | (marker == SEQUENTIAL[1])
        components = tf.where(is_frame & (components == 0), head[:, 9], components)
        is_scan = marker == SCAN_MARKER[1]
        plain |= ~ended & in_segment & is_scan & (head[:, 4] == components) & (components > 0)
        ended |= is_scan | ~in_segment
        return at + 2 + head[:, 2] * 256 + head[:, 3], components, ended, plain

    start = none + 2, none, none > 0, none > 0
    *_, plain = tf.while_loop(
        lambda at, components, ended, plain: ~tf.reduce_all(ended),
        step,
        start,
        maximum_iterations=_SEGMENTS,
    )
    return plain
