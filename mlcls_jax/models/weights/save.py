"""Writes variables in the formats of timm and Keras, which load them without this package.

Writing needs neither framework.  A padding or epsilon that a code base does not support is refused,
because its model would load the tensors but compute different logits.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors.numpy import save

from mlcls_jax.models.conventions import Convention, PretrainedConfig, pretrained_config_of
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.convert import to_tensors
from mlcls_jax.models.weights.keras_h5 import layer_order
from mlcls_jax.models.weights.layouts import KERAS, TIMM

TIMM_FILE, KERAS_FILE = "model.safetensors", "model.weights.h5"
KERAS_ORDER = (  # the order in which Keras numbers the weights of a layer
    *("kernel", "bias"),
    *("gamma", "beta", "moving_mean", "moving_variance"),
    *("mean", "variance", "count"),
)


@dataclass(frozen=True)
class Builder:
    """The call that builds the model for a written file in the other framework.

    Attributes:
        name: name of the model (timm) or of the function (Keras).
        arguments: keyword arguments of the call, as JSON values.
    """

    name: str
    arguments: dict[str, Any]

    @property
    def keywords(self) -> str:
        """The arguments as Python source."""
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())


def timm_builder(
    variant: str, convention: Convention, num_classes: int, channels: int = 3
) -> Builder:
    """Returns the arguments of `timm.create_model` for the model that computes our logits.

    Args:
        variant: a key of VARIANTS.
        convention: convention of the weights.
        num_classes: number of outputs of the head.
        channels: of the images.

    Raises:
        ValueError: timm has no model of the variant with this padding.
    """
    tf = convention.padding == "same"
    pretrained_config = pretrained_config_of("timm tf" if tf else "timm", variant)
    if pretrained_config is None:
        raise ValueError(
            f"timm has no {variant} with {convention.padding} padding, so none of its models "
            "computes these logits; export to another format"
        )
    family = f"efficientnetv2_{variant[2:]}" if VARIANTS[variant].v2 else f"efficientnet_{variant}"
    arguments: dict[str, Any] = {"num_classes": num_classes}
    if channels != 3:
        arguments["in_chans"] = channels
    if convention.epsilon != pretrained_config.convention.epsilon:
        arguments["bn_eps"] = convention.epsilon
    if convention.decay != pretrained_config.convention.decay:
        arguments["bn_momentum"] = round(1 - convention.decay, 9)  # PyTorch's momentum
    return Builder(f"{'tf_' if tf else ''}{family}", arguments)


def save_timm(folder: Path, variables: Mapping[str, Any], variant: str) -> Path:
    """Writes model.safetensors, a state dict for `load_state_dict(..., strict=True)`.

    Args:
        folder: an existing folder.
        variables: {params, batch_stats}, nested.
        variant: a key of VARIANTS.

    Returns:
        The path of the file.
    """
    tensors = to_tensors(variables, variant, TIMM)
    for name in [name for name in tensors if name.endswith("running_mean")]:
        counter = name.replace("running_mean", "num_batches_tracked")
        tensors[counter] = np.zeros((), np.int64)
    (folder / TIMM_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
    return folder / TIMM_FILE


def keras_builder(
    variant: str,
    pretrained_config: PretrainedConfig,
    num_classes: int,
    image_size: int,
    channels: int = 3,
) -> Builder:
    """Returns the function of `keras.applications` whose model computes our logits.

    V2 models normalise images by constants that are not weights.  If our weights need other values,
    the model is built without its preprocessing and takes normalised images.

    Args:
        variant: a key of VARIANTS.
        pretrained_config: convention and normalisation of the weights.
        num_classes: number of outputs of the head.
        image_size: side of the images, in pixels.
        channels: of the images.

    Raises:
        ValueError: Keras has no model of the variant, or none with this padding and epsilon.
    """
    own = pretrained_config_of("keras", variant)
    if own is None:
        raise ValueError(f"keras.applications has no {variant}; export to another format")
    theirs, ours = own.convention, pretrained_config.convention
    if (theirs.padding, theirs.epsilon) != (ours.padding, ours.epsilon):
        raise ValueError(
            f"keras.applications has {theirs.padding} padding and epsilon {theirs.epsilon:g}, but "
            f"these weights need {ours.padding} padding and epsilon {ours.epsilon:g}; export to "
            "safetensors, stablehlo or onnx"
        )
    arguments: dict[str, Any] = {
        "weights": None,
        "input_shape": [image_size, image_size, channels],
        "classes": num_classes,
        "classifier_activation": None,
    }
    if VARIANTS[variant].v2:
        same = own.normalization == pretrained_config.normalization
        arguments["include_preprocessing"] = same  # with channels other than RGB it does another
    return Builder(f"EfficientNet{variant.upper()}", arguments)


def save_keras(
    folder: Path, variables: Mapping[str, Any], variant: str, pretrained_config: PretrainedConfig
) -> Path:
    """Writes model.weights.h5 in the layout of Keras 3's `save_weights`.

    Args:
        folder: an existing folder.
        variables: {params, batch_stats}, nested.
        variant: a key of VARIANTS.
        pretrained_config: convention and normalisation of the weights; models of B0 to B7 store
            the normalisation in a layer.

    Returns:
        The path of the file.
    """
    tensors = to_tensors(variables, variant, KERAS)
    if not VARIANTS[variant].v2:
        normalization = pretrained_config.normalization
        mean, std = (np.array(part) / 255 for part in (normalization.mean, normalization.std))
        tensors["normalization/mean"] = mean.astype(np.float32)
        tensors["normalization/variance"] = np.square(std).astype(np.float32)
        tensors["normalization/count"] = np.zeros((), np.int64)
    data = io.BytesIO()  # in memory first, because h5py reports a full disk too late
    with h5py.File(data, "w") as file:
        file.create_group("vars")
        for kind, layers in layer_order(VARIANTS[variant]).items():
            for i, layer in enumerate(layers):
                group = file.create_group(f"layers/{kind}_{i}" if i else f"layers/{kind}")
                values = [n for weight in KERAS_ORDER if (n := f"{layer}/{weight}") in tensors]
                weights = group.create_group("vars")
                weights.attrs["name"] = layer
                for number, name in enumerate(values):
                    weights[str(number)] = tensors[name]
    (folder / KERAS_FILE).write_bytes(data.getbuffer())
    return folder / KERAS_FILE
