"""EfficientNet B0–B7, Lite0–4 and V2 in Flax linen.

Sources: Tan and Le, arXiv:1905.11946 and arXiv:2104.00298; the TensorFlow reference implementation
for drop path and the Lite variants.  What code bases do differently is the field `convention`.

Parameter paths are backbone/stem, backbone/stage{1..}/block{i}/{expand,depthwise,se,project},
backbone/top and head, so that a group of parameters is a short regular expression.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt32

from mlcls_jax.models.batch_norm import Activation
from mlcls_jax.models.blocks import Block, Network, NormalizedConv, drop
from mlcls_jax.models.ml_decoder import DROPOUT, DecoderSize, MLDecoder
from mlcls_jax.models.variants import (
    B0_STAGES,
    TOP_CHANNELS,
    VARIANTS,
    Stage,
    end_channels,
    scaled_stages,
)

DROP_PATH_RATE = 0.2  # of the last block; it grows linearly from 0 at the first


class StageBlocks(Network):
    """All blocks of one stage; drop_path holds one rate per block, remat is as in EfficientNet."""

    stage: Stage = B0_STAGES[0]
    activation: Activation = nn.silu
    drop_path: tuple[float, ...] = ()
    remat: bool = False

    @nn.compact
    def __call__(self, x, train: bool, example):
        # Argument 2 is train (0 is the module): a Python bool inside as well.
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i, rate in enumerate(self.drop_path):
            x = block(
                **self.common,
                stage=self.stage,
                stride=self.stage.stride if i == 0 else 1,
                activation=self.activation,
                drop_path=rate,
                name=f"block{i + 1}",
            )(x, train, example)
        return x


class Backbone(Network):
    """Stem, stages and top: normalised images to the last feature map."""

    variant: str = "b0"
    remat: bool = False

    @nn.compact
    def __call__(self, x, train: bool, example):
        variant = VARIANTS[self.variant]
        activation = nn.relu6 if variant.lite else nn.silu
        x = NormalizedConv(
            **self.common,
            activation=activation,
            features=end_channels(variant.stem_channels, variant),
            kernel_size=3,
            stride=2,
            name="stem",
        )(x.astype(self.dtype), train)
        stages = scaled_stages(variant)
        total = sum(stage.blocks for stage in stages)
        rates = [DROP_PATH_RATE * i / total for i in range(total)]
        for number, stage in enumerate(stages, start=1):
            x = StageBlocks(
                **self.common,
                stage=stage,
                activation=activation,
                drop_path=tuple(rates[: stage.blocks]),
                remat=self.remat,
                name=f"stage{number}",
            )(x, train, example)
            rates = rates[stage.blocks :]
        top = end_channels(TOP_CHANNELS, variant)
        last = NormalizedConv(**self.common, activation=activation, features=top, name="top")
        return last(x, train)


class EfficientNet(Network):
    """EfficientNet with one of two heads: a dense layer on the pooled features, or an ML-Decoder.

    Attributes:
        variant: a key of VARIANTS.
        num_classes: width of the head; 0 leaves the head out and returns what it would take.
        decoder: size of the ML-Decoder; None: global average pooling and a dense layer.
        dropout: rate before the dense layer, or inside the decoder; None is the published rate, of
            the variant or of the decoder.
        remat: keep the input of each block only, and compute the block again for its gradient.
        convention, active, portable, statistics_axis: see Network.
        dtype: of the computation.  Parameters, statistics, pooled features and logits are float32.
    """

    variant: str = "b0"
    num_classes: int = 0
    decoder: DecoderSize | None = None
    dropout: float | None = None
    remat: bool = False

    def setup(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"model.variant {self.variant!r} is none of {', '.join(VARIANTS)}")
        self.backbone = Backbone(**self.common, variant=self.variant, remat=self.remat)
        if self.num_classes and self.decoder:
            rate = DROPOUT if self.dropout is None else self.dropout
            self.head = MLDecoder(self.num_classes, self.decoder, rate, self.dtype)
        elif self.num_classes:
            self.head = nn.Dense(self.num_classes, dtype=jnp.float32)

    def features(
        self,
        x: Float[Array, "batch height width 3"],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch rows columns channel"]:
        """The last feature map, a 32nd of the image's height and width, in the compute dtype."""
        return self.backbone(x, train, example)

    def head_inputs(
        self,
        x: Float[Array, "batch height width 3"],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch ..."]:
        """What the head takes: the mean of the feature map in float32, or for a decoder the map."""
        features = self.features(x, train, example)
        return features if self.decoder else features.astype(jnp.float32).mean(axis=(1, 2))

    def __call__(
        self,
        x: Float[Array, "batch height width 3"],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch ..."]:
        """Logits [batch, class], float32; or `head_inputs`, without a head.

        Args:
            x: images, normalised by the mean and standard deviation of the weights.
            train: dropout, drop path and batch statistics in the active modules.
            example: a number for each row; the dropout of a row is a function of the "dropout"
                rng and its number, whatever device or batch the row is in.
        """
        inputs = self.head_inputs(x, train, example)
        return self.classify(inputs, train, example) if self.num_classes else inputs

    def classify(
        self,
        inputs: Float[Array, "batch ..."],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch class"]:
        """Logits of `head_inputs`, with the same dropout as in a call of the whole network."""
        head: Any = self.head
        if self.decoder:
            return head(inputs, train, example)
        rate = VARIANTS[self.variant].dropout if self.dropout is None else self.dropout
        if train and rate:
            inputs = drop(inputs, rate, self.make_rng("dropout"), example, inputs.shape[1:])
        return head(inputs)
