"""Keras's side of part 3, on JAX, in mixed precision; with its own step and optimiser."""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import os

os.environ["KERAS_BACKEND"] = "jax"

import time
from typing import Any

import jax
import keras
import numpy as np

CLASSES = 80
NAMES = {"v2s": "EfficientNetV2S"}


def versions() -> str:
    """Returns the versions of the libraries."""
    return f"Keras {keras.__version__} on jax {jax.__version__}"


def build(what: str, variant: str, size: int, batch: int) -> tuple[Any, dict[str, Any]]:
    """Returns the step for speed_worker.py."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    make = getattr(keras.applications, NAMES.get(variant, f"EfficientNet{variant.upper()}"))
    base = make(weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3))
    base.trainable = what == "train"
    model = keras.Sequential([base, keras.layers.Dense(CLASSES, dtype="float32")])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    options: dict[str, Any] = {"jit_compile": True}
    model.compile(keras.optimizers.AdamW(1e-4, weight_decay=1e-2), loss, **options)
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    labels = np.ones((batch, CLASSES), np.float32)

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            if what == "forward":
                model.predict_on_batch(images)
            else:
                model.train_on_batch(images, labels)
        return time.perf_counter() - began

    return run, {}


def memory() -> dict[str, Any]:
    """Returns the peak memory of the device so far."""
    return {"peak_memory": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")}
