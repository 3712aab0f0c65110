"""ML-Decoder: queries that look for their classes in the feature map, in place of its mean.

Source: Ridnik et al., arXiv:2111.12933, and the authors' implementation, which timm has as
`timm.layers.ml_decoder`: one transformer decoder layer that normalises after each sum, without
self-attention, since the queries are the same for every image; and for each query a dense layer
of its own to the logits of its classes ("group fully connected").  The queries are drawn once and
never trained.  So they are no parameter here but a constant of the program, and every leaf of the
head is one that trains.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt32

from mlcls_jax.models.blocks import drop
from mlcls_jax.models.variants import HEADS

# As published, and as in the authors' implementation.
FEED_FORWARD = 2048
DROPOUT = 0.1
EPSILON = 1e-5

# Where `apply(..., mutable=[INTERMEDIATES])` leaves what the queries look at, float32
# [batch, head, query, place] with a sum of 1 over the places, which are row after row.
INTERMEDIATES, ATTENTION = "intermediates", "weights"

# The authors' initial kernels are PyTorch's.  It draws those of query, key and value as one Xavier
# matrix with three times as many columns, and all others from the inputs alone.  Biases, which it
# draws as well where they are not the attention's, begin at 0.
_PROJECTION = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")
_DENSE = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_GROUPS = nn.initializers.xavier_normal(in_axis=1, out_axis=0)


@dataclass(frozen=True)
class DecoderSize:
    """Of an ML-Decoder.

    Attributes:
        groups: of classes, at most; 0: each class is one.
        width: of the embedding, a multiple of HEADS.
    """

    groups: int
    width: int


def query_count(num_classes: int, groups: int) -> int:
    """Queries of a decoder: as many as it takes where each but the last has as many classes.

    The authors' implementation computes `groups` of them even where the last ones are left with no
    class: with 80 classes in 25 groups of 4, five.  Queries do not see each other, so the logits
    are the same without these.
    """
    return math.ceil(num_classes / _classes_per_query(num_classes, groups))


def query_of_class(num_classes: int, groups: int) -> Int[np.ndarray, " class"]:
    """Number of the query that gives each class its logit."""
    return np.arange(num_classes) // _classes_per_query(num_classes, groups)


def _classes_per_query(num_classes: int, groups: int) -> int:
    return math.ceil(num_classes / min(groups or num_classes, num_classes))


def fixed_queries(count: int, width: int) -> Float[np.ndarray, "query width"]:
    """Float32 standard normal numbers, the same for ever: NumPy keeps this old stream (NEP 19)."""
    return np.random.RandomState(0).standard_normal((count, width)).astype(np.float32)


class MLDecoder(nn.Module):
    """The head: a feature map to logits.

    Attributes:
        num_classes: of the logits.
        size: see DecoderSize.
        dropout: rate of the queries, the attention, the feed-forward layer and both results.
        dtype: of the computation, but for the softmax and from the last normalisation on.
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
        """Float32 logits; the dropout of a row is a function of the "dropout" rng and `example`."""

        def dropped(x):
            if not (train and self.dropout):
                return x
            return drop(x, self.dropout, self.make_rng("dropout"), example, x.shape[1:])

        def norm(name: str, dtype: jnp.dtype = self.dtype):
            return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, name=name)

        width = self.size.width
        places = x.reshape(x.shape[0], -1, x.shape[-1])
        places = nn.relu(self._dense(width, "embed")(places))
        fixed = fixed_queries(query_count(self.num_classes, self.size.groups), width)
        # Without dropout one row of queries is that of every image.
        queries = jnp.asarray(fixed, self.dtype)[None]
        queries = norm("query_norm")(queries + dropped(queries))
        queries = norm("attention_norm")(queries + dropped(self._attend(queries, places, dropped)))
        hidden = dropped(nn.relu(self._dense(FEED_FORWARD, "expand")(queries)))
        hidden = dropped(self._dense(width, "project")(hidden))
        return self._logits(norm("output_norm", jnp.dtype("float32"))(queries + hidden))

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=_DENSE, name=name)

    def _attend(self, queries, places, dropped):
        def attention(query, key, value):
            query = jnp.broadcast_to(query, (key.shape[0], *query.shape[1:]))
            scores = jnp.einsum("bqhd,bphd->bhqp", query / math.sqrt(key.shape[-1]), key)
            weights = nn.softmax(scores.astype(jnp.float32))
            self.sow(INTERMEDIATES, ATTENTION, weights)  # nothing, where nobody asks for it
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
        return layer(queries, places, places)

    def _logits(self, found: Float[Array, "batch query width"]) -> Float[Array, "batch class"]:
        each = _classes_per_query(self.num_classes, self.size.groups)
        shape = (*found.shape[1:], each)
        kernel = self.param("kernel", _GROUPS, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,), jnp.float32)
        logits = jnp.einsum("bqd,qdc->bqc", found, kernel)
        return logits.reshape(found.shape[0], -1)[:, : self.num_classes] + bias
