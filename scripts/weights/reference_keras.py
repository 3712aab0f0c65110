"""keras.applications as a reference, and the file layouts of several versions of Keras."""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from reference_weights import (
    CALIBRATION_SHAPE,
    NUM_CLASSES,
    Reference,
    disturbed,
    random_bias,
    random_images,
    random_kernel,
    random_scale,
)

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


class KerasReference(Reference):
    """A network of keras.applications.

    It keeps weights and builds a model when needed, because a Keras model pads for one input shape.
    """

    def __init__(self, variant: str, rng: np.random.Generator):
        import keras

        name = variant.upper()  # such as B0, V2B0 and V2S
        self._build = getattr(keras.applications, f"EfficientNet{name}")
        model = self._build(**_with_top(CALIBRATION_SHAPE))
        randomise_keras(model, rng)
        self._weights: list[np.ndarray] = model.get_weights()

    def save(self, folder: Path) -> dict[str, Path]:
        folder.mkdir(parents=True)
        models = {
            "with top": self._model(_with_top(CALIBRATION_SHAPE)),
            "no top": self._model(_without_top(CALIBRATION_SHAPE)),
        }
        paths = {}
        for name, model in models.items():
            published = folder / f"{name.replace(' ', '_')}.h5"
            write_published(model, published)
            model.save_weights(published.with_suffix(".weights.h5"))
            paths[f".h5 {name}"] = published
            paths[f".weights.h5 {name}"] = published.with_suffix(".weights.h5")
        return paths

    def logits(self, images: np.ndarray) -> np.ndarray:
        return _keras_outputs(self._model(_with_top(images.shape)), images)

    def features(self, images: np.ndarray) -> np.ndarray:
        return _keras_outputs(self._model(_without_top(images.shape)), images)

    def train_forward(self, images: np.ndarray) -> None:
        model = self._model(_with_top(images.shape))
        _keras_train_forward(model, images)
        self._weights = model.get_weights()

    def model(self, shape: tuple[int, ...], with_top: bool) -> Any:
        """Returns the model for images of a shape, [batch, height, width, 3]."""
        return self._model(_with_top(shape) if with_top else _without_top(shape))

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Replaces all weights, in the order of `get_weights` of a model with its head."""
        self._weights = weights

    def _model(self, options: dict[str, Any]) -> Any:
        model = self._build(**options)
        model.set_weights(self._weights[: len(model.weights)])  # the head's weights are the last
        _finish_normalization(model)
        return model


def _with_top(shape: tuple[int, ...]) -> dict[str, Any]:
    options = {"classes": NUM_CLASSES, "classifier_activation": None}
    return {"weights": None, "input_shape": shape[1:], **options}


def _without_top(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"weights": None, "input_shape": shape[1:], "include_top": False, "pooling": "avg"}


def _keras_outputs(model: Any, images: np.ndarray) -> np.ndarray:
    return model(images.astype(np.float32), training=False).numpy()


def _keras_train_forward(model: Any, images: np.ndarray) -> None:
    for layer in _layers(model, "Dropout"):
        layer.rate = 0.0
    model(images.astype(np.float32), training=True)


def _finish_normalization(model: Any) -> None:
    for layer in _layers(model, "Normalization"):
        layer.finalize_state()  # because it computes with copies of its weights


def _layers(model: Any, kind: str) -> list[Any]:
    return [layer for layer in model.layers if type(layer).__name__ == kind]


def randomise_keras(model: Any, rng: np.random.Generator) -> None:
    """Randomises every weight, so that a swapped or dropped tensor shows in the logits."""
    ranges = {"mean": (0.3, 0.6), "variance": (0.02, 0.4)}
    for layer in _layers(model, "Normalization"):
        for weight in layer.weights:
            if weight.name in ranges:
                weight.assign(rng.uniform(*ranges[weight.name], weight.shape))
    _finish_normalization(model)
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name == "kernel":
                weight.assign(_random_keras_kernel(rng, layer, tuple(weight.shape)))
            elif weight.name in ("bias", "beta"):
                weight.assign(random_bias(rng, weight.shape))
            elif weight.name == "gamma":
                weight.assign(random_scale(rng, weight.shape))
    measure_statistics(model, random_images(rng, (4, *model.input_shape[1:])))
    for layer in _layers(model, "BatchNormalization"):
        mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
        mean, variance = disturbed(rng, mean, variance)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


def measure_statistics(model: Any, images: np.ndarray) -> None:
    """Replaces the running statistics of a model by those of one batch."""
    norms = _layers(model, "BatchNormalization")
    decays = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    _keras_train_forward(model, images)
    for layer, decay in zip(norms, decays, strict=True):
        layer.momentum = decay


def _random_keras_kernel(
    rng: np.random.Generator, layer: Any, shape: tuple[int, ...]
) -> np.ndarray:
    if len(shape) == 2:
        return random_kernel(rng, shape[::-1]).T
    rows, columns, inputs, outputs = shape
    if type(layer).__name__ == "DepthwiseConv2D":
        return random_kernel(rng, (inputs, outputs, rows, columns)).transpose(2, 3, 0, 1)
    return random_kernel(rng, (outputs, inputs, rows, columns)).transpose(2, 3, 1, 0)


def write_published(
    model: Any, path: Path, normalization: dict[str, np.ndarray] | None = None
) -> None:
    """Writes the layout of storage.googleapis.com/keras-applications.

    Its names end in ":0" and contain depthwise_kernel.

    Args:
        model: a Keras model.
        path: file to write.
        normalization: other weights for the Normalization layer, by name.
    """
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([layer.name for layer in model.layers], "S")
        for layer in model.layers:
            values = {weight.name: weight.numpy() for weight in layer.weights}
            if "count" in values:
                values |= normalization or {}
            if type(layer).__name__ == "DepthwiseConv2D":
                values = {"depthwise_kernel": values["kernel"]}
            group = file.create_group(layer.name)
            for name, value in values.items():
                group[f"{layer.name}/{name}:0"] = value
            names = [f"{layer.name}/{name}:0" for name in values]
            group.attrs["weight_names"] = np.array(names, "S")


def write_legacy(model: Any, path: Path) -> None:
    """Writes the layout of `save_weights("x.h5")` in Keras 3, without ":0"."""
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def write_earlier_keras_3(model: Any, path: Path) -> None:
    """Writes the layout of `save_weights("x.weights.h5")` in Keras 3.0, without layer names."""
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        for variables in [f"layers/{name}/vars" for name in file.require_group("layers")]:
            if variables in file:
                file[variables].attrs.pop("name", None)
