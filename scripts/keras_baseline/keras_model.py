"""The network of compare.py: EfficientNet-Lite0 built by Keras, with our pretrained weights.

It is keras.applications.EfficientNetB0 without squeeze-excite and with relu6. Like the networks of
keras.applications it normalises images by itself. Keras is imported where it is used, because the
tests of compare.py read this file without it.
"""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlcls_jax.models.variants import VARIANTS, scaled_stages
from mlcls_jax.models.weights.convert import to_tensors
from mlcls_jax.models.weights.layouts import KERAS
from mlcls_jax.models.weights.load import Pretrained
from mlcls_jax.step.train_step import normalize

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

VARIANT = "lite0"
TOLERANCE = 1e-4  # relative to the largest feature


@dataclass(frozen=True)
class Script:
    """One way to put a head on the base and to train it.

    Attributes:
        title: name in the table and the figure.
        rescale: whether to divide images by 255, although the base does so too.
        flatten: whether the head gets the whole feature map instead of its mean over the image.
        learning_rate: learning rate of Adam.
    """

    title: str
    rescale: bool = True
    flatten: bool = True
    learning_rate: float = 0.01


# The original script, then one more repair in each.
SCRIPTS = (
    Script("the original Keras script"),
    Script("normalised once", rescale=False),
    Script("and pooled", rescale=False, flatten=False),
    Script("and at 1e-3", rescale=False, flatten=False, learning_rate=1e-3),
)


def build_base(pretrained: Pretrained, size: int) -> Any:
    """Builds the backbone as a Keras model, from float pixels (0 to 255) to the last feature map.

    Args:
        pretrained: weights of VARIANT.
        size: image size in pixels; Keras's padding depends on it.
    """
    from keras.src.applications.efficientnet import EfficientNet  # Keras exports B0 to B7 only

    channels, blocks = 32, []
    for stage in scaled_stages(VARIANTS[VARIANT]):
        blocks.append(
            {
                "kernel_size": stage.kernel_size,
                "repeats": stage.blocks,
                "filters_in": channels,
                "filters_out": stage.channels,
                "expand_ratio": stage.expansion,
                "id_skip": True,
                "strides": stage.stride,
                "se_ratio": 0.0,
            }
        )
        channels = stage.channels
    options: dict[str, Any] = {"blocks_args": blocks, "activation": "relu6", "weights": None}
    base = EfficientNet(1.0, 1.0, size, input_shape=(size, size, 3), include_top=False, **options)
    _assign(base, pretrained)
    return base


def _assign(base: Any, pretrained: Pretrained) -> None:
    """Sets every weight of the base; raises ValueError if names or shapes differ."""
    variables = pretrained.variables
    params = {name: tree for name, tree in variables["params"].items() if name != "head"}
    tensors = to_tensors(variables | {"params": params}, VARIANT, KERAS)
    by = pretrained.normalization
    tensors["normalization/mean"] = np.broadcast_to(by.mean, 3) / 255
    tensors["normalization/variance"] = np.square(np.broadcast_to(by.std, 3) / 255)
    tensors["normalization/count"] = np.zeros((), np.int64)
    for layer in base.layers:
        kind = type(layer).__name__
        prefix = "normalization" if kind == "Normalization" else layer.name
        for weight in layer.weights:
            weight.assign(tensors.pop(f"{prefix}/{weight.name}"))
        if kind == "Normalization":
            layer.finalize_state()  # because it computes with copies of its weights
    if tensors:
        raise ValueError(f"Keras's network lacks the weights {', '.join(sorted(tensors))}")


def largest_difference(base: Any, pretrained: Pretrained, images: np.ndarray) -> float:
    """Returns the largest difference of pooled features, relative to our largest feature.

    Args:
        base: from `build_base`.
        pretrained: weights from which it was built.
        images: uint8 [image, size, size, 3].
    """
    theirs = base(images.astype(np.float32), training=False).numpy().mean(axis=(1, 2))
    model = pretrained.model.clone(num_classes=0)
    pixels = normalize(jnp.asarray(images), pretrained.normalization)
    ours: Any = jax.jit(partial(model.apply, train=False))(pretrained.variables, pixels)
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())


def build_classifier(base: Any, script: Script, num_classes: int) -> Any:
    """Returns the compiled model of a script, with a frozen base."""
    import keras

    base.trainable = False
    inputs = keras.Input(base.input_shape[1:])
    x = base(inputs, training=False)
    x = keras.layers.Flatten()(x) if script.flatten else keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(num_classes, activation="sigmoid")(x))
    model.compile(
        optimizer=keras.optimizers.Adam(script.learning_rate),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model
