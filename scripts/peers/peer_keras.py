"""Keras's side of compare_peers.py, on TensorFlow: one graph per step, without Keras's metrics."""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import os

import keras
import numpy as np
import tensorflow as tf
from peer_worker import NUM_CLASSES, Step, random_batch

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def versions() -> str:
    """Returns the versions of the libraries."""
    return f"Keras {keras.__version__} on TensorFlow {tf.__version__}"


def build(
    variant: str, size: int, batch: int, dropout: float, jit_compile: bool = False
) -> dict[str, Step]:
    """Returns the steps for peer_worker.py.

    The network normalises by itself and has a drop path of 0.2.

    Args:
        variant: such as "b0".
        size: image size in pixels.
        batch: images per step.
        dropout: dropout rate of the head.
        jit_compile: whether XLA compiles the graphs.
    """
    application = getattr(keras.applications, f"EfficientNet{variant.upper()}")
    base = application(weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3))
    head = [keras.layers.Dropout(dropout), keras.layers.Dense(NUM_CLASSES)]
    model = keras.Sequential([base, *head])
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=1e-2)
    optimizer.build(model.trainable_variables)
    images, labels = (tf.constant(rows) for rows in random_batch(size, batch))

    @tf.function(jit_compile=jit_compile)
    def predict(images):
        return model(images, training=False)

    @tf.function(jit_compile=jit_compile)
    def step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), logits)
            loss = tf.reduce_mean(losses)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def forward() -> np.ndarray:
        return predict(images).numpy()

    def train() -> float:
        return float(step(images, labels))

    return {"forward": forward, "train": train}
