"""Writes a SavedModel for TensorFlow, or model.tflite for LiteRT, from a network's layers."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.export.layers import Array, Ops, Pads, Tensor
from mlcls_jax.export.portable import INPUT, LOGITS, OUTPUT, Logits, check_outputs

SAVED_MODEL_FOLDER, TFLITE_FILE = "saved_model", "model.tflite"


class TensorFlowOps:
    """The operations of TensorFlow; see `layers.Ops`.  A map is [batch, row, column, channel]."""

    def __init__(self, images: Any):
        import tensorflow as tf  # an optional dependency

        self._tf, self._images = tf, images

    def images(self) -> Tensor:
        return self._tf.cast(self._images, "float32")

    def constant(self, values: Array) -> Tensor:
        return self._tf.constant(np.asarray(values, np.float32))

    def shift(self, x: Tensor, values: Array) -> Tensor:
        return x + self.constant(values)

    def conv(
        self, x: Tensor, kernel: Array, bias: Array, stride: int, pads: Pads, depthwise: bool
    ) -> Tensor:
        if any(pads):  # LiteRT has no other explicit padding
            x = self._tf.pad(x, [[0, 0], list(pads), list(pads), [0, 0]])
        strides = [1, stride, stride, 1]
        if depthwise:
            moved = self.constant(kernel.transpose(0, 1, 3, 2))
            x = self._tf.nn.depthwise_conv2d(x, moved, strides, "VALID")
        else:
            x = self._tf.nn.conv2d(x, self.constant(kernel), strides, "VALID")
        return self._tf.nn.bias_add(x, self.constant(bias))

    def activate(self, x: Tensor, name: str) -> Tensor:
        return getattr(self._tf.nn, name)(x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def average(self, x: Tensor) -> Tensor:
        return self._tf.reduce_mean(x, [1, 2], keepdims=True)

    def positions(self, x: Tensor, count: int) -> Tensor:
        channels = x.shape[-1]
        return self._tf.reshape(x, [-1, count, channels] if count else [-1, channels])

    def dense(self, x: Tensor, kernel: Array, bias: Array) -> Tensor:
        return self.matmul(x, self.constant(kernel)) + self.constant(bias)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return self._tf.matmul(x, y)

    def softmax(self, x: Tensor) -> Tensor:
        return self._tf.nn.softmax(x)

    def layer_norm(self, x: Tensor, scale: Array, bias: Array, epsilon: float) -> Tensor:
        mean = self._tf.reduce_mean(x, -1, keepdims=True)
        centred = x - mean
        variance = self._tf.reduce_mean(centred * centred, -1, keepdims=True)
        factor = self._tf.math.rsqrt(variance + epsilon)
        return centred * factor * self.constant(scale) + self.constant(bias)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        known = [x.shape[1] if size == -1 else size for size in shape]
        return self._tf.reshape(x, [-1, *known])

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return self._tf.transpose(x, list(axes))

    def first(self, x: Tensor, count: int) -> Tensor:
        return x[:, :count]


def save_tensorflow(
    folder: Path,
    write: Callable[[Ops], Tensor],
    logits: Logits,
    shape: Sequence[int],
    lite: bool,
) -> Path:
    """Writes the network for TensorFlow or LiteRT, for any batch size, once it agrees with JAX.

    Args:
        folder: an existing folder.
        write: writes the layers from the images to the logits, and returns the logits.
        logits: the same function in JAX.
        shape: of an image: height, width, channels.
        lite: whether to write model.tflite instead of a SavedModel.

    Returns:
        Path of the file, or of the folder of a SavedModel.

    Raises:
        ValueError: the other program computes other logits or probabilities.
    """
    import tensorflow as tf

    def outputs(images: Any) -> dict[str, Any]:
        values = write(TensorFlowOps(images))
        return {OUTPUT: tf.sigmoid(values), LOGITS: values}

    signature = [tf.TensorSpec([None, *shape], tf.uint8, name=INPUT)]
    module: Any = tf.Module()
    module.outputs = tf.function(outputs, input_signature=signature)
    path = folder / (TFLITE_FILE if lite else SAVED_MODEL_FOLDER)
    if lite:
        data = _converted(module)
        check_outputs("LiteRT", _lite_runner(data), logits, shape)
        path.write_bytes(data)
        return path
    tf.saved_model.save(module, str(path), signatures=module.outputs)
    loaded = tf.saved_model.load(str(path)).signatures["serving_default"]

    def run(images: Array) -> tuple[Array, Array]:
        found = loaded(**{INPUT: tf.constant(images)})
        return found[OUTPUT].numpy(), found[LOGITS].numpy()

    check_outputs("TensorFlow", run, logits, shape)
    return path


def _converted(module: Any) -> bytes:
    """Returns the bytes of a .tflite file."""
    import tensorflow as tf

    function = module.outputs.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()


def _lite_runner(data: bytes) -> Callable[[Array], tuple[Array, Array]]:
    import tensorflow as tf

    with warnings.catch_warnings():  # that the class moves to another package
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=data)
    runner = interpreter.get_signature_runner()

    def run(images: Array) -> tuple[Array, Array]:
        found = runner(**{INPUT: images})
        return found[OUTPUT], found[LOGITS]

    return run
