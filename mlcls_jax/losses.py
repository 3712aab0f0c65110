"""Losses per (picture, class), and the one way to average them over the known labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mlcls_jax.data.labels import UNKNOWN

# (logits, labels), both float32 [batch, class] -> losses of the same shape.  Labels are in [0, 1],
# or UNKNOWN, where the loss means nothing.
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def sigmoid_bce(
    logits: Float[Array, "batch class"], labels: Float[Array, "batch class"]
) -> Float[Array, "batch class"]:
    """Binary cross-entropy of each class in nats, unreduced; finite for every finite logit.

    Args:
        logits, labels: see Loss.
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def known_sum(
    losses: Float[Array, "batch class"], labels: Float[Array, "batch class"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum of the losses at known labels and the number of known labels, both float32.

    Sums, not means, so that devices and batches with unequal numbers of known labels merge
    exactly: divide the total of the first by the total of the second.
    """
    known = labels != UNKNOWN
    return jnp.where(known, losses, 0.0).sum(), known.sum(dtype=jnp.float32)
