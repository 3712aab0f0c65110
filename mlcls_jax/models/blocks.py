"""What an EfficientNet is built of: convolutions with their normalisation, and the two blocks.

Sources: inverted residuals, arXiv:1801.04381; squeeze-excite, arXiv:1709.01507; fused blocks,
arXiv:2104.00298; drop path, arXiv:1603.09382.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mlcls_jax.models.batch_norm import Activation, BatchNorm, identity
from mlcls_jax.models.conventions import KERAS, Convention, Padding
from mlcls_jax.models.ops.conv import conv, native_conv, pointwise
from mlcls_jax.models.ops.depthwise import depthwise_conv
from mlcls_jax.models.ops.gated import gated_product, scaled_values
from mlcls_jax.models.variants import B0_STAGES, Stage


class Conv(nn.Module):
    """Convolution; a 1x1 one is a matrix product over the channels, which a gate
    [batch, channel] may scale first."""

    features: int
    kernel_size: int = 1
    stride: int = 1
    padding: Padding = "same"
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32
    portable: bool = False

    @nn.compact
    def __call__(self, x, gate=None):
        k = self.kernel_size
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, (k, k, x.shape[-1], self.features), jnp.float32)
        kernel = kernel.astype(self.dtype)
        if gate is not None:
            if (k, self.stride) != (1, 1):
                raise ValueError(f"a gate is for 1x1 convolutions; this one is {k}x{k}")
            product: Any = scaled_values if self.portable else gated_product
            x = product(x, gate, kernel[0, 0])
        elif k == 1 and self.stride == 1:
            x = pointwise(x, kernel[0, 0])
        else:
            convolve: Any = native_conv if self.portable else conv
            x = convolve(x, kernel, self.stride, self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            x = x + bias.astype(self.dtype)
        return x


class DepthwiseConv(nn.Module):
    """One k*k kernel per channel."""

    kernel_size: int
    stride: int
    padding: Padding = "same"
    dtype: jnp.dtype = jnp.float32
    portable: bool = False

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        init = nn.initializers.normal(math.sqrt(2.0) / self.kernel_size)
        kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
        convolve: Any = native_conv if self.portable else depthwise_conv
        return convolve(x, kernel, self.stride, self.padding)


class Network(nn.Module):
    """What every part below shares.

    Attributes:
        convention: of the weights, with what belongs to it.
        dtype: of the computation.
        active: paths of the modules that behave as in training when `train=True`; None means all.
            A batch normalisation outside it uses its running statistics and keeps them; a block
            outside it drops no path.
        portable: compute in the same way on every platform, which converters need.
        statistics_axis: of the mesh, over which the statistics of batches are taken; see BatchNorm.
    """

    convention: Convention = KERAS
    dtype: jnp.dtype = jnp.float32
    active: frozenset[str] | None = None
    portable: bool = False
    statistics_axis: str | None = None

    def trains(self, train: bool, *name: str) -> bool:
        """Whether this module, or its named child, behaves as in training."""
        path = "/".join((*self.path, *name))
        return train and (self.active is None or path in self.active)

    @property
    def common(self) -> dict:
        """The fields to pass to a child."""
        names = ("convention", "dtype", "active", "portable", "statistics_axis")
        return {name: getattr(self, name) for name in names}


class NormalizedConv(Network):
    """A convolution, its batch normalisation and activation."""

    activation: Activation = identity
    features: int = 0  # 0: depthwise
    kernel_size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x, train: bool, gate=None):
        convention = self.convention
        how = {
            "padding": convention.padding,
            "dtype": self.dtype,
            "portable": self.portable,
            "name": "conv",
        }
        if self.features:
            convolution = Conv(self.features, self.kernel_size, self.stride, **how)
        else:
            convolution = DepthwiseConv(self.kernel_size, self.stride, **how)
        norm = BatchNorm(
            self.activation,
            momentum=convention.decay,
            epsilon=convention.epsilon,
            unbiased=convention.unbiased,
            dtype=self.dtype,
            axis=self.statistics_axis,
            name="norm",
        )
        gated: Any = (x,) if gate is None else (x, gate)
        return norm(convolution(*gated), self.trains(train, "norm"))


class SqueezeExcite(nn.Module):
    """A gate [batch, channel] for x, computed from the means of all channels."""

    squeezed: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        gate = x.mean(axis=(1, 2))
        gate = Conv(self.squeezed, use_bias=True, dtype=self.dtype, name="reduce")(gate)
        gate = Conv(x.shape[-1], use_bias=True, dtype=self.dtype, name="expand")(nn.silu(gate))
        return nn.sigmoid(gate)


class Block(Network):
    """Inverted residual: expand, depthwise, squeeze-excite, project.

    A fused one expands with a full convolution and has no depthwise one; without an expansion,
    that convolution is its projection.
    """

    stage: Stage = B0_STAGES[0]
    stride: int = 1
    activation: Activation = nn.silu
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool, example):
        stage, inputs = self.stage, x
        x = self._fused(x, train) if stage.fused else self._inverted(x, train)
        if self.stride == 1 and inputs.shape[-1] == stage.channels:
            if self.drop_path and self.trains(train):
                x = drop(x, self.drop_path, self.make_rng("dropout"), example, (1, 1, 1))
            x = x + inputs
        return x

    def _inverted(self, x, train: bool):
        stage, inputs = self.stage, x
        if stage.expansion != 1:
            x = self._expand(x, train)
        x = NormalizedConv(
            **self.common,
            activation=self.activation,
            kernel_size=stage.kernel_size,
            stride=self.stride,
            name="depthwise",
        )(x, train)
        gate = None
        if stage.squeeze:
            squeezed = max(1, int(inputs.shape[-1] * stage.squeeze))
            gate = SqueezeExcite(squeezed, self.dtype, name="se")(x)
        project = NormalizedConv(**self.common, features=stage.channels, name="project")
        return project(x, train, gate)

    def _fused(self, x, train: bool):
        stage = self.stage
        full = {"kernel_size": stage.kernel_size, "stride": self.stride}
        project = {"features": stage.channels, "name": "project"}
        if stage.expansion == 1:
            project |= full | {"activation": self.activation}
        else:
            x = self._expand(x, train, **full)
        return NormalizedConv(**self.common, **project)(x, train)

    def _expand(self, x, train: bool, **full):
        features = x.shape[-1] * self.stage.expansion
        expand = NormalizedConv(
            **self.common, activation=self.activation, features=features, **full, name="expand"
        )
        return expand(x, train)


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
