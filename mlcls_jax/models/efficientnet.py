"""EfficientNet B0–B7 and Lite0–4 in Flax linen.

Sources: Tan and Le, "EfficientNet", arXiv:1905.11946; the TensorFlow reference implementation for
padding ("SAME"), batch normalisation (decay 0.99, epsilon 1e-3), drop path and the Lite variants
(ReLU6, no squeeze-excite, stem and top not widened, first and last stage not deepened).

Parameter paths are backbone/stem, backbone/stage{1..7}/block{i}/{expand,depthwise,se,project},
backbone/top and head, so that a group of parameters is a short regular expression.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt32

from mlcls_jax.models.depthwise import depthwise_conv
from mlcls_jax.models.normalization import Activation, BatchNorm, identity
from mlcls_jax.models.variants import (
    B0_STAGES,
    SQUEEZE_RATIO,
    STEM_CHANNELS,
    TOP_CHANNELS,
    VARIANTS,
    Stage,
    scaled_channels,
    scaled_stages,
)

BATCH_NORM_DECAY = 0.99  # Flax calls this momentum; PyTorch's momentum is one minus it.
BATCH_NORM_EPSILON = 1e-3
DROP_PATH_RATE = 0.2  # of the last block; it grows linearly from 0 at the first


class Conv(nn.Module):
    """Convolution with "SAME" padding; a 1x1 one is a matrix product over the channels."""

    features: int
    kernel_size: int = 1
    stride: int = 1
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
        if self.kernel_size == 1 and self.stride == 1:
            # As one matrix: its kernel gradient is then a plain product as well.
            x = (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], self.features)
        else:
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            x = x + bias.astype(self.dtype)
        return x


class DepthwiseConv(nn.Module):
    """One k*k kernel per channel, "SAME" padding."""

    kernel_size: int
    stride: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        init = nn.initializers.normal(math.sqrt(2.0) / self.kernel_size)
        kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
        return depthwise_conv(x, kernel, self.stride)


class Network(nn.Module):
    """What every part below shares: the compute dtype and which modules train.

    `active` holds the paths of the modules that behave as in training when `train=True`; None
    means all.  A batch normalisation outside it uses its running statistics and keeps them; a
    block outside it drops no path.
    """

    dtype: jnp.dtype = jnp.float32
    active: frozenset[str] | None = None

    def trains(self, train: bool, *name: str) -> bool:
        """Whether this module, or its named child, behaves as in training."""
        path = "/".join((*self.path, *name))
        return train and (self.active is None or path in self.active)

    @property
    def common(self) -> dict:
        """The fields to pass to a child."""
        return {"dtype": self.dtype, "active": self.active}


class NormalizedConv(Network):
    """A convolution, its batch normalisation and activation."""

    activation: Activation = identity
    features: int = 0  # 0: depthwise
    kernel_size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x, train: bool):
        if self.features:
            conv = Conv(self.features, self.kernel_size, self.stride, dtype=self.dtype, name="conv")
        else:
            conv = DepthwiseConv(self.kernel_size, self.stride, self.dtype, name="conv")
        norm = BatchNorm(
            self.activation, BATCH_NORM_DECAY, BATCH_NORM_EPSILON, self.dtype, name="norm"
        )
        return norm(conv(x), self.trains(train, "norm"))


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the means of all channels (arXiv:1709.01507)."""

    squeezed: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        gate = x.mean(axis=(1, 2), keepdims=True)
        gate = Conv(self.squeezed, use_bias=True, dtype=self.dtype, name="reduce")(gate)
        gate = Conv(x.shape[-1], use_bias=True, dtype=self.dtype, name="expand")(nn.silu(gate))
        return x * nn.sigmoid(gate)


class Block(Network):
    """Inverted residual: expand, depthwise, squeeze-excite, project (arXiv:1801.04381)."""

    stage: Stage = B0_STAGES[0]
    stride: int = 1
    lite: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool, example):
        stage, inputs = self.stage, x
        activation = nn.relu6 if self.lite else nn.silu
        if stage.expansion != 1:
            features = inputs.shape[-1] * stage.expansion
            expand = NormalizedConv(
                **self.common, activation=activation, features=features, name="expand"
            )
            x = expand(x, train)
        depthwise = NormalizedConv(
            **self.common,
            activation=activation,
            kernel_size=stage.kernel_size,
            stride=self.stride,
            name="depthwise",
        )
        x = depthwise(x, train)
        if not self.lite:
            squeezed = max(1, int(inputs.shape[-1] * SQUEEZE_RATIO))
            x = SqueezeExcite(squeezed, self.dtype, name="se")(x)
        x = NormalizedConv(**self.common, features=stage.channels, name="project")(x, train)
        if self.stride == 1 and inputs.shape[-1] == stage.channels:
            if self.drop_path and self.trains(train):
                x = drop(x, self.drop_path, self.make_rng("dropout"), example, (1, 1, 1))
            x = x + inputs
        return x


class StageBlocks(Network):
    """All blocks of one stage; drop_path holds one rate per block."""

    stage: Stage = B0_STAGES[0]
    lite: bool = False
    drop_path: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, x, train: bool, example):
        for i, rate in enumerate(self.drop_path):
            x = Block(
                **self.common,
                stage=self.stage,
                stride=self.stage.stride if i == 0 else 1,
                lite=self.lite,
                drop_path=rate,
                name=f"block{i + 1}",
            )(x, train, example)
        return x


class Backbone(Network):
    """Stem, seven stages and top: normalised pictures to the last feature map."""

    variant: str = "b0"

    @nn.compact
    def __call__(self, x, train: bool, example):
        variant = VARIANTS[self.variant]
        activation = nn.relu6 if variant.lite else nn.silu
        unscaled = 1.0 if variant.lite else variant.width
        stem = scaled_channels(STEM_CHANNELS, unscaled)
        first = NormalizedConv(
            **self.common,
            activation=activation,
            features=stem,
            kernel_size=3,
            stride=2,
            name="stem",
        )
        x = first(x.astype(self.dtype), train)
        stages = scaled_stages(variant)
        total = sum(stage.blocks for stage in stages)
        rates = [DROP_PATH_RATE * i / total for i in range(total)]
        for number, stage in enumerate(stages, start=1):
            x = StageBlocks(
                **self.common,
                stage=stage,
                lite=variant.lite,
                drop_path=tuple(rates[: stage.blocks]),
                name=f"stage{number}",
            )(x, train, example)
            rates = rates[stage.blocks :]
        top = scaled_channels(TOP_CHANNELS, unscaled)
        last = NormalizedConv(**self.common, activation=activation, features=top, name="top")
        return last(x, train)


class EfficientNet(Network):
    """EfficientNet with global average pooling and a dense head.

    Attributes:
        variant: a key of VARIANTS.
        num_classes: width of the head; 0 leaves the head out and returns the pooled features.
        dropout: rate before the head; None is the variant's published rate.
        dtype: of the computation.  Parameters, statistics, pooled features and logits are float32.
        active: see Network.
    """

    variant: str = "b0"
    num_classes: int = 0
    dropout: float | None = None

    def setup(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"model.variant {self.variant!r} is none of {', '.join(VARIANTS)}")
        self.backbone = Backbone(**self.common, variant=self.variant)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes, dtype=jnp.float32)

    def features(
        self,
        x: Float[Array, "batch height width 3"],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch rows columns channel"]:
        """The last feature map, a 32nd of the picture's height and width, in the compute dtype."""
        return self.backbone(x, train, example)

    def __call__(
        self,
        x: Float[Array, "batch height width 3"],
        train: bool = False,
        example: UInt32[Array, " batch"] | None = None,
    ) -> Float[Array, "batch class"]:
        """Logits (or pooled features, without a head), float32.

        Args:
            x: pictures, normalised by the mean and standard deviation of the weights.
            train: dropout, drop path and batch statistics in the active modules.
            example: a number for each row; the dropout of a row is a function of the "dropout"
                rng and its number, whatever device or batch the row is in.
        """
        pooled = self.features(x, train, example).astype(jnp.float32).mean(axis=(1, 2))
        if not self.num_classes:
            return pooled
        rate = VARIANTS[self.variant].dropout if self.dropout is None else self.dropout
        if train and rate:
            pooled = drop(pooled, rate, self.make_rng("dropout"), example, pooled.shape[1:])
        return self.head(pooled)


def drop(x, rate: float, key, example, shape: tuple[int, ...]):
    """Zeroes x with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
        x: [batch, ...].
        key: rng of this call.
        example: uint32 [batch]; row i's noise depends on key and example[i] only.
        shape: of one row's noise, broadcast against x[i].
    """
    if example is None:
        raise ValueError("dropout and drop path need `example`, a number for each row")
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example)
    keep = jax.vmap(lambda row: jax.random.bernoulli(row, 1.0 - rate, shape))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
