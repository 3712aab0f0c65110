"""Building blocks of EfficientNet: normalised convolutions, and inverted and fused residual blocks.

Sources: inverted residuals, arXiv:1801.04381; squeeze-excite, arXiv:1709.01507; fused blocks,
arXiv:2104.00298; drop path, arXiv:1603.09382.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from mlcls_jax.models.batch_norm import Activation, BatchNorm, identity
from mlcls_jax.models.conventions import KERAS, Convention, Padding
from mlcls_jax.models.normalized_depthwise import normalized_depthwise
from mlcls_jax.models.ops.conv import conv, pointwise
from mlcls_jax.models.ops.depthwise import depthwise_conv
from mlcls_jax.models.ops.drop import drop
from mlcls_jax.models.ops.gated import gated_product
from mlcls_jax.models.variants import B0_STAGES, Stage


class Conv(nn.Module):
    """Convolution over all channels; 1x1 ones are computed as a matrix product.

    Attributes:
        features: number of output channels.
        kernel_size: height and width of the kernel.
        stride: step along both image axes.
        padding: see `conventions.pad_widths`.
        use_bias: whether a bias is added.
        dtype: dtype of the computation; parameters are float32.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    padding: Padding = "same"
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, gate=None):
        """Convolves x [batch, ..., channel]; a 1x1 one scales x by gate [batch, channel] first."""
        k = self.kernel_size
        shape = (k, k, x.shape[-1], self.features)
        init = nn.initializers.normal(kernel_deviation(shape))
        kernel = self.param("kernel", init, shape, jnp.float32)
        kernel = kernel.astype(self.dtype)
        if gate is not None:
            if (k, self.stride) != (1, 1):
                raise ValueError(
                    f"a gate needs a 1x1 convolution with stride 1, not {k}x{k} with stride "
                    f"{self.stride}"
                )
            product: Any = gated_product
            x = product(x, gate, kernel[0, 0])
        elif k == 1 and self.stride == 1:
            x = pointwise(x, kernel[0, 0])
        else:
            convolve: Any = conv
            x = convolve(x, kernel, self.stride, self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            x = x + bias.astype(self.dtype)
        return x


def kernel_deviation(shape: Sequence[int], is_depthwise: bool = False) -> float:
    """Returns the standard deviation of the random values of a new kernel.

    It keeps the variance of gradients (He et al. 2015, arXiv:1502.01852, eq. 14): the square root
    of 2 / (height * width * outputs of one input).

    Args:
        shape: height, width, inputs and outputs of the kernel.
        is_depthwise: whether each input has one output.
    """
    height, width, _, outputs = shape
    return math.sqrt(2.0 / (height * width * (1 if is_depthwise else outputs)))


class DepthwiseConv(nn.Module):
    """Depthwise convolution: one k*k kernel per channel; attributes as in `Conv`."""

    kernel_size: int
    stride: int
    padding: Padding = "same"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, norm: BatchNorm | None = None):
        """Convolves x, and normalises by the running statistics of `norm` if it is given."""
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        init = nn.initializers.normal(kernel_deviation(shape, is_depthwise=True))
        kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
        options = self.stride, self.padding
        if norm is None:
            convolve: Any = depthwise_conv
            return convolve(x, kernel, *options)
        both: Any = normalized_depthwise
        return both(x, kernel, *norm.running(x.shape[-1]), norm.activation, *options)


class Network(nn.Module):
    """Base class of all modules below, with the fields that they share.

    Attributes:
        convention: padding, epsilon and decay of the code base that the weights come from.
        dtype: dtype of the computation.
        active: paths of the modules that are in training mode when `train=True`; None means all.
            A batch normalisation that is not active uses its running statistics and does not update
            them; a block that is not active drops no path.
        statistics_axis: mesh axis over which batch statistics are averaged; see `BatchNorm.axis`.
    """

    convention: Convention = KERAS
    dtype: jnp.dtype = jnp.float32
    active: frozenset[str] | None = None
    statistics_axis: str | None = None

    def trains(self, train: bool, *name: str) -> bool:
        """Returns whether this module, or its child of that name, is in training mode."""
        path = "/".join((*self.path, *name))
        return train and (self.active is None or path in self.active)

    @property
    def common(self) -> dict:
        """The shared fields, as keyword arguments for a child module."""
        names = ("convention", "dtype", "active", "statistics_axis")
        return {name: getattr(self, name) for name in names}


class NormalizedConv(Network):
    """Convolution, batch normalisation and activation.

    Attributes:
        activation: elementwise function of the normalised values.
        features: number of output channels; 0 makes the convolution depthwise.
        kernel_size, stride: of the convolution.
    """

    activation: Activation = identity
    features: int = 0
    kernel_size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x, train: bool, gate=None):
        convention = self.convention
        options = {
            "padding": convention.padding,
            "dtype": self.dtype,
            "name": "conv",
        }
        norm = BatchNorm(
            self.activation,
            momentum=convention.decay,
            epsilon=convention.epsilon,
            unbiased=convention.unbiased,
            dtype=self.dtype,
            axis=self.statistics_axis,
            name="norm",
        )
        trains = self.trains(train, "norm")
        if self.features:
            convolution = Conv(self.features, self.kernel_size, self.stride, **options)
            return norm(convolution(x, gate), trains)
        depthwise = DepthwiseConv(self.kernel_size, self.stride, **options)
        return norm(depthwise(x), trains) if trains else depthwise(x, norm)


class SqueezeExcite(nn.Module):
    """Squeeze-excite: computes a gate [batch, channel] for x from the averages of its channels.

    Attributes:
        squeezed: width of the hidden layer.
        dtype: dtype of the computation.
    """

    squeezed: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        gate = x.mean(axis=(1, 2))
        gate = Conv(self.squeezed, use_bias=True, dtype=self.dtype, name="reduce")(gate)
        gate = Conv(x.shape[-1], use_bias=True, dtype=self.dtype, name="expand")(nn.silu(gate))
        return nn.sigmoid(gate)


class Block(Network):
    """Residual block: expand, depthwise, squeeze-excite, project.

    A fused block replaces the expansion and the depthwise convolution by one full convolution.  If
    it does not expand, that convolution also takes the place of the projection.

    Attributes:
        stage: kernel size, widths and kind of the block.
        stride: stride of this block; only the first block of a stage has the stage's stride.
        activation: elementwise function after each convolution except a separate projection.
        drop_path: probability of dropping the block's output during training.
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
