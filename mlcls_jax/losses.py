"""Losses per (picture, class), and the one way to average them over the known labels."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int8

from mlcls_jax.data.labels import UNKNOWN


def sigmoid_bce(
    logits: Float[Array, "batch class"], labels: Int8[Array, "batch class"]
) -> Float[Array, "batch class"]:
    """Binary cross-entropy of each class in nats, unreduced; finite for every finite logit.

    Args:
        logits: float32.
        labels: multi-hot, 1, 0 or UNKNOWN.  The value at an unknown label means nothing.
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32))


def known_sum(
    losses: Float[Array, "batch class"], labels: Int8[Array, "batch class"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum of the losses at known labels and the number of known labels, both float32.

    Sums, not means, so that devices and batches with unequal numbers of known labels merge
    exactly: divide the total of the first by the total of the second.
    """
    known = labels != UNKNOWN
    return jnp.where(known, losses, 0.0).sum(), known.sum(dtype=jnp.float32)
