"""ML-Decoder: a head whose queries attend to the feature map, instead of pooling it.

It is one transformer decoder layer that normalises after each sum.  It has no self-attention,
because the queries are the same for every image.  Each query has its own dense layer to the logits
of its classes ("group fully connected").

The queries are drawn once and never trained.  Therefore they are a constant of the program and not
a parameter: every parameter of the head is trained.

Source: Ridnik et al., arXiv:2111.12933, and the authors' implementation, which is
`timm.layers.ml_decoder` in timm.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt32

from mlcls_jax.models.ops.drop import drop
from mlcls_jax.models.variants import HEADS, classes_per_query, query_count

# The published values, which are also those of the authors' implementation.
FEED_FORWARD = 2048
DROPOUT = 0.1
EPSILON = 1e-5

# `apply(..., mutable=[INTERMEDIATES])` returns the attention of the queries under these names:
# float32 [batch, head, query, position], where the positions of the map are in row-major order and
# the weights of a query sum to 1.
INTERMEDIATES, ATTENTION = "intermediates", "weights"

# Initial kernels as in PyTorch, which the authors use.  It draws the kernels of query, key and
# value as one Xavier matrix with three times as many columns, and scales all others by their number
# of inputs alone.  All biases start at 0 here; in PyTorch, only those of the attention do.
_PROJECTION = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")
_DENSE = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_GROUPS = nn.initializers.xavier_normal(in_axis=1, out_axis=0)


@dataclass(frozen=True)
class DecoderSize:
    """Size of an ML-Decoder.

    Attributes:
        groups: maximum number of groups of classes; 0 means one group per class.
        width: width of the embedding, a multiple of HEADS.
    """

    groups: int
    width: int


def query_of_class(num_classes: int, groups: int) -> Int[np.ndarray, " class"]:
    """Returns the index of the query that computes the logit of each class; see `query_count`."""
    return np.arange(num_classes) // classes_per_query(num_classes, groups)


def fixed_queries(count: int, width: int) -> Float[np.ndarray, "query width"]:
    """Returns the queries: float32 standard normal numbers, the same in every run.

    NumPy guarantees that the stream of `RandomState` does not change (NEP 19).
    """
    return np.random.RandomState(0).standard_normal((count, width)).astype(np.float32)


class MLDecoder(nn.Module):
    """Head that maps a feature map to logits.

    Attributes:
        num_classes: number of logits.
        size: see `DecoderSize`.
        dropout: rate on the queries, the attention weights, the hidden layer of the feed-forward
            part, and the outputs of attention and feed-forward part.
        dtype: dtype of the computation; the softmax, the last normalisation and the logits are
            float32.
    """

    num_classes: int
    size: DecoderSize
    dropout: float = DROPOUT
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows columns channel"],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch class"]:
        """Computes float32 logits.

        Args:
            x: the last feature map, in the compute dtype.
            train: whether dropout is applied.
            example: a number for each row, needed for dropout; the dropout of a row depends only on
                the "dropout" rng and this number.
        """

        def dropped(x):
            if not (train and self.dropout):
                return x
            return drop(x, self.dropout, self.make_rng("dropout"), example, x.shape[1:])

        def norm(name: str, dtype: jnp.dtype = self.dtype):
            return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, name=name)

        width = self.size.width
        positions = x.reshape(x.shape[0], -1, x.shape[-1])
        positions = nn.relu(self._dense(width, "embed")(positions))
        fixed = fixed_queries(query_count(self.num_classes, self.size.groups), width)
        # A batch of one: without dropout, the queries are the same for every image.
        queries = jnp.asarray(fixed, self.dtype)[None]
        queries = norm("query_norm")(queries + dropped(queries))
        attended = self._attend(queries, positions, dropped)
        queries = norm("attention_norm")(queries + dropped(attended))
        hidden = dropped(nn.relu(self._dense(FEED_FORWARD, "expand")(queries)))
        hidden = dropped(self._dense(width, "project")(hidden))
        return self._logits(norm("output_norm", jnp.dtype("float32"))(queries + hidden))

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=_DENSE, name=name)

    def _attend(self, queries, positions, dropped):
        def attention(query, key, value):
            query = jnp.broadcast_to(query, (key.shape[0], *query.shape[1:]))
            scores = jnp.einsum("bqhd,bphd->bhqp", query / math.sqrt(key.shape[-1]), key)
            weights = nn.softmax(scores.astype(jnp.float32))
            self.sow(INTERMEDIATES, ATTENTION, weights)  # no-op unless it is mutable
            weights = dropped(weights)
            return jnp.einsum("bhqp,bphd->bqhd", weights.astype(value.dtype), value)

        layer = nn.MultiHeadDotProductAttention(
            HEADS,
            dtype=self.dtype,
            kernel_init=_PROJECTION,
            out_kernel_init=_DENSE,
            attention_fn=attention,
            name="attention",
        )
        return layer(queries, positions, positions)

    def _logits(self, queries: Float[Array, "batch query width"]) -> Float[Array, "batch class"]:
        per_query = classes_per_query(self.num_classes, self.size.groups)
        shape = (*queries.shape[1:], per_query)
        kernel = self.param("kernel", _GROUPS, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,), jnp.float32)
        logits = jnp.einsum("bqd,qdc->bqc", queries, kernel)
        return logits.reshape(queries.shape[0], -1)[:, : self.num_classes] + bias
