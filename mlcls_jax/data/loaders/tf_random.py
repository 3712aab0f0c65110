"""The random numbers of `sampling.uniforms` in TensorFlow operations."""

# TensorFlow's annotations lack some operators of tensors.
# pyright: reportOperatorIssue=false, reportArgumentType=false

import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.data.sampling import (
    AUGMENT,
    PHILOX_INCREMENTS,
    PHILOX_MULTIPLIERS,
    PHILOX_ROUNDS,
    PHILOX_WORDS,
)


def uniforms_of(seed: int, epochs: tf.Tensor, indices: tf.Tensor, count: int) -> tf.Tensor:
    """Returns what `sampling.uniforms` returns: float64 [n, count].

    Args:
      seed: the seed of the run.
      epochs, indices: int64 [n].
      count: the number of numbers per image.
    """
    blocks = -(-count // PHILOX_WORDS)
    shape = tf.stack([tf.size(indices), blocks])
    rows = [tf.cast(values, tf.uint64)[:, None] for values in (indices + 1, epochs)]
    index, epoch = (tf.broadcast_to(row, shape) for row in rows)
    zero = tf.zeros(shape, tf.uint64)
    block = tf.broadcast_to(tf.cast(tf.range(1, blocks + 1), tf.uint64)[None], shape)
    words = _philox([block, zero, index, zero + _word(AUGMENT)], [zero + _word(seed), epoch])
    words = tf.reshape(tf.stack(words, axis=-1), [-1, blocks * PHILOX_WORDS])[:, :count]
    return tf.cast(_right(words, 11), tf.float64) * 2.0**-53


def _philox(counter: list[tf.Tensor], key: list[tf.Tensor]) -> list[tf.Tensor]:
    """Encrypts four words per counter, in a loop, which is traced faster than ten rounds."""

    def encrypt(*state: tf.Tensor) -> list[tf.Tensor]:
        step, (a, b, c, d), (first, second) = state[0], state[1:5], state[5:]
        (high0, low0), (high1, low1) = (
            _multiply(factor, word) for factor, word in zip(PHILOX_MULTIPLIERS, (a, c), strict=True)
        )
        keys = [
            word + _word(increment)
            for word, increment in zip((first, second), PHILOX_INCREMENTS, strict=True)
        ]
        return [step + 1, high1 ^ b ^ first, low1, high0 ^ d ^ second, low0, *keys]

    state = [tf.constant(0), *counter, *key]
    return tf.while_loop(lambda step, *_: step < PHILOX_ROUNDS, encrypt, state)[1:5]


def _multiply(factor: int, word: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The upper and the lower 64 bits of a product."""
    high, low = _right(word, 32), word & _word(2**32 - 1)
    factor_high, factor_low = _word(factor >> 32), _word(factor & 2**32 - 1)
    middle = high * factor_low + _right(low * factor_low, 32)
    cross = low * factor_high + (middle & _word(2**32 - 1))
    return high * factor_high + _right(middle, 32) + _right(cross, 32), word * _word(factor)


def _right(word: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(word, _word(bits))


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
