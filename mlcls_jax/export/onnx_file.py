"""Writes model.onnx: an EfficientNet layer by layer, or the user's own network by a converter."""

from collections.abc import Callable, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlcls_jax.export.layers import Array, Ops, Pads, Tensor
from mlcls_jax.export.portable import (
    INPUT,
    LOGITS,
    OUTPUT,
    Logits,
    check_outputs,
    probabilities_of,
)

ONNX_FILE = "model.onnx"
OPSET, IR_VERSION = 18, 8  # supported by onnxruntime since 1.14
_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid"}


class OnnxOps:
    """The operations of ONNX, which add nodes to a graph; see `layers.Ops`.

    A map is [batch, channel, row, column].
    """

    def __init__(self):
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, values: Array) -> str:
        """Returns the name of a weight."""
        return self._weight(np.asarray(values, np.float32))

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        import onnx  # an optional dependency

        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def images(self) -> Tensor:
        # Transposed as bytes, which are a quarter of the floats.
        moved = self.node("Transpose", INPUT, perm=[0, 3, 1, 2])
        return self.node("Cast", moved, to=1)  # TensorProto.FLOAT

    def shift(self, x: Tensor, values: Array) -> Tensor:
        return self.node("Add", x, self.constant(values.reshape(1, -1, 1, 1)))

    def conv(
        self, x: Tensor, kernel: Array, bias: Array, stride: int, pads: Pads, depthwise: bool
    ) -> Tensor:
        return self.node(
            "Conv",
            x,
            self.constant(kernel.transpose(3, 2, 0, 1)),
            self.constant(bias),
            kernel_shape=kernel.shape[:2],
            strides=[stride, stride],
            pads=[pads[0], pads[0], pads[1], pads[1]],
            group=kernel.shape[3] if depthwise else 1,
        )

    def activate(self, x: Tensor, name: str) -> Tensor:
        if name == "silu":
            return self.node("Mul", x, self.node("Sigmoid", x))
        if name == "relu6":
            limits = (self.constant(np.array(limit)) for limit in (0.0, 6.0))
            return self.node("Clip", x, *limits)
        return self.node(_ACTIVATIONS[name], x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.node("Add", x, y)

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return self.node("Mul", x, y)

    def average(self, x: Tensor) -> Tensor:
        return self.node("GlobalAveragePool", x)

    def positions(self, x: Tensor, count: int) -> Tensor:
        rows = self.node("Flatten", x) if not count else self._shaped(x, (0, 0, count))
        return self.node("Transpose", rows, perm=[0, 2, 1]) if count else rows

    def dense(self, x: Tensor, kernel: Array, bias: Array) -> Tensor:
        return self.node("Add", self.matmul(x, self.constant(kernel)), self.constant(bias))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return self.node("MatMul", x, y)

    def softmax(self, x: Tensor) -> Tensor:
        return self.node("Softmax", x, axis=-1)

    def layer_norm(self, x: Tensor, scale: Array, bias: Array, epsilon: float) -> Tensor:
        weights = self.constant(scale), self.constant(bias)
        return self.node("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return self._shaped(x, (0, *shape))  # 0: as it is

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return self.node("Transpose", x, perm=list(axes))

    def first(self, x: Tensor, count: int) -> Tensor:
        ends = (self._weight(np.array([end], np.int64)) for end in (0, count, 1))
        return self.node("Slice", x, *ends)

    def _shaped(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return self.node("Reshape", x, self._weight(np.array(shape, np.int64)))

    def _weight(self, values: Array) -> str:
        import onnx

        name = f"weight_{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def save_onnx(
    folder: Path,
    write: Callable[[Ops], Tensor],
    logits: Logits,
    shape: Sequence[int],
    classes: int,
) -> Path:
    """Writes model.onnx of an EfficientNet, for any batch size, once onnxruntime agrees with JAX.

    Args:
        folder: an existing folder.
        write: writes the layers from the images to the logits, and returns the logits.
        logits: the same function in JAX.
        shape: of an image: height, width, channels.
        classes: number of outputs.

    Returns:
        Path of the file.

    Raises:
        ValueError: onnxruntime computes other logits or probabilities.
    """
    import onnx
    from onnx import TensorProto, helper

    ops = OnnxOps()
    outputs = ops.node("Identity", write(ops), output=LOGITS)
    ops.node("Sigmoid", outputs, output=OUTPUT)
    images = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", *shape])
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes])
        for name in (OUTPUT, LOGITS)
    ]
    graph = helper.make_graph(ops.nodes, "mlcls_jax", [images], results, ops.weights)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return _save(folder, model, logits, shape)


def convert_onnx(folder: Path, logits: Logits, shape: Sequence[int]) -> Path:
    """Writes model.onnx of any network with jax2onnx; see `save_onnx`."""
    for name in ("jax2onnx", "onnx_ir"):  # they warn about features that are not used here
        getLogger(name).setLevel("ERROR")
    import jax2onnx  # pyright: ignore[reportMissingImports]  # an optional dependency

    def outputs(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = logits(images)
        return probabilities_of(values), values

    images: list[Any] = [jax.ShapeDtypeStruct(("batch", *shape), np.uint8)]
    model = jax2onnx.to_onnx(
        outputs, images, opset=OPSET, input_names=[INPUT], output_names=[OUTPUT, LOGITS]
    )
    return _save(folder, model, logits, shape)


def _save(folder: Path, model: Any, logits: Logits, shape: Sequence[int]) -> Path:
    """Writes a model with both outputs, of which only the probabilities are kept."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def run(images: Array) -> tuple[Array, Array]:
        found, values = session.run([OUTPUT, LOGITS], {INPUT: images})
        return np.asarray(found), np.asarray(values)

    check_outputs("onnxruntime", run, logits, shape)
    del model.graph.output[1]
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())
    return folder / ONNX_FILE
