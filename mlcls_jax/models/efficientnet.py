"""EfficientNet B0–B7, Lite0–4 and V2 in Flax linen.

Sources: Tan and Le, arXiv:1905.11946 and arXiv:2104.00298; the TensorFlow reference implementation
for drop path and the Lite variants.  The field `convention` holds what differs between code bases.

Parameter paths are backbone/stem, backbone/stage{1..}/block{i}/{expand,depthwise,se,project},
backbone/top and head, so a short regular expression selects any group of parameters.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt32

from mlcls_jax.models.batch_norm import Activation
from mlcls_jax.models.blocks import Block, Network, NormalizedConv
from mlcls_jax.models.ml_decoder import DROPOUT, DecoderSize, MLDecoder
from mlcls_jax.models.ops.drop import drop
from mlcls_jax.models.variants import (
    B0_STAGES,
    TOP_CHANNELS,
    VARIANTS,
    Stage,
    end_channels,
    scaled_stages,
)

DROP_PATH = 0.2  # the published rate, arXiv:1905.11946


class StageBlocks(Network):
    """The blocks of one stage.

    Attributes:
        stage: see `variants.Stage`.
        activation: elementwise function of the blocks.
        drop_path: one rate per block.
        remat: as in `EfficientNet`.
    """

    stage: Stage = B0_STAGES[0]
    activation: Activation = nn.silu
    drop_path: tuple[float, ...] = ()
    remat: bool = False

    @nn.compact
    def __call__(self, x, train: bool, example):
        # Argument 2 is `train` (0 is the module); static, so it stays a Python bool.
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
    """Stem, stages and top: maps normalised images to the last feature map.

    Its sections are numbered: 0 is the stem, 1 to n are the stages, n + 1 is the top.  A call can
    be limited to consecutive sections, so that the output of frozen ones can be computed once.

    Attributes:
        variant: a key of VARIANTS.
        remat: as in `EfficientNet`.
        drop_path: block i of n, from 0, drops its path with probability drop_path * i / n.
    """

    variant: str = "b0"
    remat: bool = False
    drop_path: float = DROP_PATH

    @nn.compact
    def __call__(self, x, train: bool, example, begin: int = 0, end: int | None = None):
        """Applies the sections from `begin` up to, but without, `end`; None means to the last."""
        variant = VARIANTS[self.variant]
        activation = nn.relu6 if variant.lite else nn.silu
        stages = scaled_stages(variant)
        sections = range(begin, len(stages) + 2 if end is None else end)
        x = x.astype(self.dtype)
        if 0 in sections:
            stem = end_channels(variant.stem_channels, variant)
            x = NormalizedConv(
                **self.common,
                activation=activation,
                features=stem,
                kernel_size=3,
                stride=2,
                name="stem",
            )(x, train)
        total = sum(stage.blocks for stage in stages)
        rates = [self.drop_path * i / total for i in range(total)]
        for number, stage in enumerate(stages, start=1):
            own, rates = rates[: stage.blocks], rates[stage.blocks :]
            if number not in sections:
                continue
            x = StageBlocks(
                **self.common,
                stage=stage,
                activation=activation,
                drop_path=tuple(own),
                remat=self.remat,
                name=f"stage{number}",
            )(x, train, example)
        if len(stages) + 1 not in sections:
            return x
        top = end_channels(TOP_CHANNELS, variant)
        last = NormalizedConv(**self.common, activation=activation, features=top, name="top")
        return last(x, train)


class EfficientNet(Network):
    """EfficientNet with one of two heads: a dense layer on the pooled features, or an ML-Decoder.

    Attributes:
        variant: a key of VARIANTS.
        num_classes: width of the head; 0 means no head: the network returns `head_inputs`.
        decoder: size of the ML-Decoder; None means global average pooling and a dense layer.
        dropout: rate before the dense layer or inside the decoder; None means the published rate
            of the variant or of the decoder.
        drop_path: see `Backbone`; None means the published 0.2.
        remat: store only the input of each block and recompute the block for its gradient.
        convention, active, statistics_axis: see `Network`.
        dtype: dtype of the computation.  Parameters, statistics, pooled features and logits are
            float32.
    """

    variant: str = "b0"
    num_classes: int = 0
    decoder: DecoderSize | None = None
    dropout: float | None = None
    drop_path: float | None = None
    remat: bool = False

    def setup(self):
        if self.variant not in VARIANTS:
            raise ValueError(
                f"unknown model.variant {self.variant!r}; choose one of {', '.join(VARIANTS)}"
            )
        self.backbone = Backbone(
            **self.common,
            variant=self.variant,
            remat=self.remat,
            drop_path=DROP_PATH if self.drop_path is None else self.drop_path,
        )
        if self.num_classes and self.decoder:
            rate = DROPOUT if self.dropout is None else self.dropout
            self.head = MLDecoder(self.num_classes, self.decoder, rate, self.dtype)
        elif self.num_classes:
            self.head = nn.Dense(self.num_classes, dtype=jnp.float32)

    def features(
        self,
        x: Float[Array, "batch height width band"],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch rows columns channel"]:
        """Returns the last feature map, in the compute dtype.

        Its height and width are those of the image divided by 32, rounded up.  Arguments are those
        of a call.
        """
        return self.backbone(x, train, example)

    def head_inputs(
        self,
        x: Float[Array, "batch height width band"],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch ..."]:
        """Returns the input of the head; arguments are those of a call.

        Returns:
            The average of the feature map in float32, or the whole map for an ML-Decoder.
        """
        features = self.features(x, train, example)
        return features if self.decoder else features.astype(jnp.float32).mean(axis=(1, 2))

    def __call__(
        self,
        x: Float[Array, "batch height width band"],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch ..."]:
        """Computes the logits of a batch of images.

        Args:
            x: images, normalised by the mean and std of the pretrained weights.
            train: whether the active modules use dropout, drop path and batch statistics.
            example: a number for each row, needed in training.  The dropout of a row depends only
                on the "dropout" rng and this number, not on the device or the batch of the row.

        Returns:
            Logits [batch, class], float32; without a head, `head_inputs`.

        Raises:
            ValueError: the variant is unknown, or dropout or drop path lack `example`.
        """
        inputs = self.head_inputs(x, train, example)
        return self.classify(inputs, train, example) if self.num_classes else inputs

    def classify(
        self,
        inputs: Float[Array, "batch ..."],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch class"]:
        """Computes the logits from `head_inputs`, with the dropout of a call of the network.

        Args:
            inputs: the result of `head_inputs`.
            train, example: as in a call of the network.
        """
        head: Any = self.head
        if self.decoder:
            return head(inputs, train, example)
        rate = VARIANTS[self.variant].dropout if self.dropout is None else self.dropout
        if train and rate:
            inputs = drop(inputs, rate, self.make_rng("dropout"), example, inputs.shape[1:])
        return head(inputs)
