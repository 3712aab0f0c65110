"""Dropout and drop path, whose noise depends only on the image and not on its place in a batch."""

import jax
import jax.numpy as jnp


def drop(x, rate: float, key, example, shape: tuple[int, ...]):
    """Zeroes values of x with probability `rate` and scales the others by 1 / (1 - rate).

    Args:
        x: [batch, ...], any float dtype.
        rate: probability from 0 to 1, exclusive.
        key: PRNG key of this call.
        example: uint32 [batch], a number for each row; the noise of row i depends only on `key`
            and example[i].
        shape: shape of the noise of one row, broadcast against x[i].

    Returns:
        An array of x's shape and dtype.

    Raises:
        ValueError: `example` is None.
    """
    if example is None:
        raise ValueError("dropout and drop path need `example`, a number for each row")
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example)
    keep = jax.vmap(lambda row: jax.random.bernoulli(row, 1.0 - rate, shape))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
