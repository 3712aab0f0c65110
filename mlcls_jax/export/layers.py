"""The forward pass of an EfficientNet, layer by layer, for the formats of other programs.

Every batch normalisation is part of the convolution before it, and constants are computed here:
the queries of an ML-Decoder, and the temperatures, which are part of the last layer.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from mlcls_jax.models.conventions import Normalization, pad_widths
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import EPSILON, DecoderSize, fixed_queries
from mlcls_jax.models.variants import HEADS, STRIDE, VARIANTS, Stage, query_count, scaled_stages

Array = np.ndarray
Tensor = Any  # a value of the graph that is being written
Pads = tuple[int, int]  # zeros before and after, on both image axes


class Ops(Protocol):
    """The operations of one format.  A map is a tensor of [batch, row, column, channel], in the
    order of axes that the format prefers."""

    def images(self) -> Tensor:
        """Returns the map of the input, uint8 converted to float32."""
        ...

    def constant(self, values: Array) -> Tensor:
        """Returns a constant, float32."""
        ...

    def shift(self, x: Tensor, values: Array) -> Tensor:
        """Adds a value per channel to a map."""
        ...

    def conv(
        self, x: Tensor, kernel: Array, bias: Array, stride: int, pads: Pads, depthwise: bool
    ) -> Tensor:
        """Convolves a map.

        Args:
            x: a map.
            kernel: [k, k, channel, feature]; [k, k, 1, channel] if depthwise.
            bias: [feature].
            stride: step along both image axes.
            pads: see Pads.
            depthwise: whether each channel is convolved by itself.
        """
        ...

    def activate(self, x: Tensor, name: str) -> Tensor:
        """Applies "silu", "relu6", "relu" or "sigmoid"."""
        ...

    def add(self, x: Tensor, y: Tensor) -> Tensor: ...

    def multiply(self, x: Tensor, y: Tensor) -> Tensor: ...

    def average(self, x: Tensor) -> Tensor:
        """Averages a map over its positions, which leaves a map with one position."""
        ...

    def positions(self, x: Tensor, count: int) -> Tensor:
        """Returns a map as [batch, count, channel]; a count of 0 as [batch, channel]."""
        ...

    def dense(self, x: Tensor, kernel: Array, bias: Array) -> Tensor:
        """Returns x @ kernel + bias, for x [batch, ..., channel]."""
        ...

    def matmul(self, x: Tensor, y: Tensor) -> Tensor: ...

    def softmax(self, x: Tensor) -> Tensor:
        """Returns the softmax over the last axis."""
        ...

    def layer_norm(self, x: Tensor, scale: Array, bias: Array, epsilon: float) -> Tensor:
        """Normalises the last axis."""
        ...

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Changes the shape of each row of the batch."""
        ...

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor: ...

    def first(self, x: Tensor, count: int) -> Tensor:
        """Returns x[:, :count]."""
        ...


def write_network(
    ops: Ops,
    model: EfficientNet,
    variables: dict[str, Any],
    by: Normalization,
    temperatures: Sequence[float],
    side: int,
) -> Tensor:
    """Writes the network from uint8 images to logits.

    Args:
        ops: of the format.
        model: the network, with a head.
        variables: {params, batch_stats}, nested, on the host.
        by: normalisation that the weights expect.
        temperatures: divisor of the logits of each class; empty for none.
        side: of the images, in pixels.

    Returns:
        The logits, divided by the temperatures: float32 [batch, class].
    """
    divisors = np.asarray(temperatures or np.ones(model.num_classes), np.float64)
    features = _Backbone(ops, model, variables, side).write(by)
    head = variables["params"]["head"]
    if model.decoder:
        rows = -(-side // STRIDE)
        return _write_decoder(
            ops,
            ops.positions(features, rows * rows),
            head,
            model.decoder,
            model.num_classes,
            divisors,
        )
    pooled = ops.positions(ops.average(features), 0)
    return ops.dense(pooled, head["kernel"] / divisors, head["bias"] / divisors)


class _Backbone:
    """Writes stem, stages and top."""

    def __init__(self, ops: Ops, model: EfficientNet, variables: dict[str, Any], side: int):
        self._ops, self._convention = ops, model.convention
        self._side, self._channels = side, 0  # of the last map
        self._params = variables["params"]["backbone"]
        self._statistics = variables["batch_stats"]["backbone"]
        self._variant = VARIANTS[model.variant]
        self._activation = "relu6" if self._variant.lite else "silu"

    def write(self, by: Normalization) -> Tensor:
        """Returns the last feature map.  The division by std is part of the first kernel."""
        mean, std = (np.array(part) for part in (by.mean, by.std))
        x = self._ops.shift(self._ops.images(), -mean)
        x = self._conv(x, ("stem",), 2, self._activation, scale=1 / std)
        for number, stage in enumerate(scaled_stages(self._variant), start=1):
            for i in range(stage.blocks):
                path = f"stage{number}", f"block{i + 1}"
                x = self._block(x, path, stage, stage.stride if i == 0 else 1)
        return self._conv(x, ("top",), 1, self._activation)

    def _block(self, x: Tensor, path: tuple[str, ...], stage: Stage, stride: int) -> Tensor:
        inputs, before, params = x, self._channels, _at(self._params, path)
        names = [name for name in ("expand", "depthwise", "project") if name in params]
        strided = "depthwise" if "depthwise" in params else names[0]
        for name in names:
            if name == "project" and "se" in params:
                x = self._gated(x, params["se"])
            activation = "" if name == "project" and len(names) > 1 else self._activation
            x = self._conv(x, (*path, name), stride if name == strided else 1, activation)
        return self._ops.add(x, inputs) if stride == 1 and before == stage.channels else x

    def _gated(self, x: Tensor, params: dict[str, Any]) -> Tensor:
        """Returns x scaled by its squeeze-excite gate."""
        gate = self._ops.average(x)
        for name, activation in (("reduce", "silu"), ("expand", "sigmoid")):
            kernel, bias = params[name]["kernel"], params[name]["bias"]
            gate = self._ops.conv(gate, kernel, bias, 1, (0, 0), depthwise=False)
            gate = self._ops.activate(gate, activation)
        return self._ops.multiply(x, gate)

    def _conv(
        self,
        x: Tensor,
        path: tuple[str, ...],
        stride: int,
        activation: str,
        scale: Float[Array, " channel"] | float = 1.0,
    ) -> Tensor:
        """Writes convolution, normalisation and activation, for inputs that are to be scaled."""
        params, statistics = _at(self._params, path), _at(self._statistics, path)["norm"]
        variance = np.asarray(statistics["var"], np.float64) + self._convention.epsilon
        factor = params["norm"]["scale"] / np.sqrt(variance)
        kernel = params["conv"]["kernel"] * np.reshape(scale, (-1, 1)) * factor
        bias = params["norm"]["bias"] - statistics["mean"] * factor
        pads = pad_widths(self._convention.padding, self._side, len(kernel), stride)
        self._side, self._channels = -(-self._side // stride), kernel.shape[-1]
        x = self._ops.conv(x, kernel, bias, stride, pads, depthwise=path[-1] == "depthwise")
        return self._ops.activate(x, activation) if activation else x


def _write_decoder(
    ops: Ops,
    positions: Tensor,
    head: dict[str, Any],
    size: DecoderSize,
    num_classes: int,
    divisors: Float[Array, " class"],
) -> Tensor:
    """Writes an ML-Decoder: what its queries see at the positions, and the logits of each."""
    count, width = query_count(num_classes, size.groups), size.width
    part = HEADS, width // HEADS
    attention = head["attention"]

    def flat(name: str) -> tuple[Array, Array]:
        kernel, bias = attention[name]["kernel"], attention[name]["bias"]
        return kernel.reshape(-1, kernel.shape[-1] if name == "out" else width), bias.reshape(-1)

    def norm(x: Tensor, name: str) -> Tensor:
        return ops.layer_norm(x, head[name]["scale"], head[name]["bias"], EPSILON)

    def dense(x: Tensor, name: str) -> Tensor:
        return ops.dense(x, head[name]["kernel"], head[name]["bias"])

    def split(x: Tensor, name: str, axes: tuple[int, ...]) -> Tensor:
        x = ops.dense(x, *flat(name))
        return ops.transpose(ops.reshape(x, (-1, *part)), axes)

    positions = ops.activate(dense(positions, "embed"), "relu")
    queries = _normalized(2.0 * fixed_queries(count, width), head["query_norm"])
    kernel, bias = flat("query")
    asked = (queries @ kernel + bias).reshape(1, count, *part).transpose(0, 2, 1, 3)
    keys = split(positions, "key", (0, 2, 3, 1))
    scores = ops.matmul(ops.constant(asked / np.sqrt(part[1])), keys)
    attended = ops.matmul(ops.softmax(scores), split(positions, "value", (0, 2, 1, 3)))
    attended = ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (count, width))
    attended = ops.dense(attended, *flat("out"))
    x = norm(ops.add(attended, ops.constant(queries[None])), "attention_norm")
    hidden = dense(ops.activate(dense(x, "expand"), "relu"), "project")
    x = norm(ops.add(x, hidden), "output_norm")
    kernel = head["kernel"]
    padded = np.ones(count * kernel.shape[-1])
    padded[:num_classes] = divisors
    kernel = kernel / padded.reshape(count, 1, -1)
    logits = ops.matmul(ops.reshape(x, (count, 1, width)), ops.constant(kernel))
    logits = ops.first(ops.reshape(logits, (padded.size,)), num_classes)
    return ops.add(logits, ops.constant(head["bias"] / divisors))


def _normalized(x: Float[Array, "query width"], params: dict[str, Any]) -> Array:
    """Returns x after layer normalisation."""
    centred = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + EPSILON)
    return centred / deviation * params["scale"] + params["bias"]


def _at(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        tree = tree[name]
    return tree
