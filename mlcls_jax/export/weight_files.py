"""Weight files of a trained model for the networks of timm and keras.applications."""

import dataclasses
from pathlib import Path
from typing import Any

from mlcls_jax.config.schema import image_size
from mlcls_jax.data.images.transforms import center_crop_share
from mlcls_jax.models.weights.save import keras_builder, save_keras, save_timm, timm_builder
from mlcls_jax.run.trained_model import TrainedModel

# The names in timm of augment.eval_resize; its borders have the mean of the normalisation.
CROP_MODES = {"squash": "squash", "center_crop": "center", "letterbox": "border"}


def write_safetensors(run: TrainedModel, folder: Path) -> tuple[Path, dict[str, Any], str]:
    """Writes weights for timm, with the config that timm reads from a folder.

    Args:
        run: the trained run.
        folder: an existing folder.

    Returns:
        The file, the content of config.json, and example code that loads the model.

    Raises:
        ValueError: the model has an ML-Decoder head.
    """
    _refuse_decoder(run, "timm.create_model")
    size, _, channels = run.network.image_shape
    mean, std = _unit(run)
    builder = timm_builder(
        run.config.model.variant, run.pretrained_config.convention, len(run.classes), channels
    )
    model_args = {k: v for k, v in builder.arguments.items() if k != "num_classes"}
    config = {
        "architecture": builder.name,
        "num_classes": len(run.classes),
        "model_args": model_args,
        "label_names": list(run.classes),
        "pretrained_cfg": {
            "input_size": [channels, size, size],
            "interpolation": run.config.augment.interpolation,
            "crop_pct": crop_share(run),
            "crop_mode": CROP_MODES[run.config.augment.eval_resize],
            "mean": mean,
            "std": std,
            "num_classes": len(run.classes),
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    }
    usage = (
        f"model = timm.create_model({builder.name!r}, {builder.keywords})\n"
        'model.load_state_dict(safetensors.torch.load_file("OUT/model.safetensors"))\n'
        'or: model = timm.create_model("local-dir:OUT", pretrained=True)'
    )
    return save_timm(folder, run.variables, run.config.model.variant), config, usage


def write_keras(run: TrainedModel, folder: Path) -> tuple[Path, dict[str, Any], str]:
    """Writes weights for keras.applications, with the function and its arguments as config.

    Args and returns are those of `write_safetensors`.

    Raises:
        ValueError: the model has an ML-Decoder head, or keras.applications cannot build it.
    """
    _refuse_decoder(run, "keras.applications")
    variant = run.config.model.variant
    builder = keras_builder(
        variant, run.pretrained_config, len(run.classes), *run.network.image_shape[1:]
    )
    inside = builder.arguments.get("include_preprocessing", True)
    config = {
        "application": builder.name,
        "arguments": builder.arguments,
        "input": "images of 0 to 255" if inside else "images of 0 to 255, minus mean, over std",
        "normalization": "inside"
        if inside
        else dataclasses.asdict(run.pretrained_config.normalization),
    }
    usage = (
        f"model = keras.applications.{builder.name}({builder.keywords})\n"
        'model.load_weights("OUT/model.weights.h5")\n'
        "logits = model(images)"
    )
    if not inside:
        mean, std = (
            list(part)
            for part in (
                run.pretrained_config.normalization.mean,
                run.pretrained_config.normalization.std,
            )
        )
        usage = usage.replace("(images)", f"((images - {mean}) / {std})")
    return save_keras(folder, run.variables, variant, run.pretrained_config), config, usage


def crop_share(run: TrainedModel) -> float:
    """Returns the fraction of an image's short side that is resized to the image size."""
    cropped = run.config.augment.eval_resize == "center_crop"
    return center_crop_share(image_size(run.config.model)) if cropped else 1.0


def _refuse_decoder(run: TrainedModel, builder: str) -> None:
    if run.config.model.head == "mldecoder":
        raise ValueError(
            f"{builder} has no EfficientNet with an ML-Decoder as its head; export to stablehlo, "
            "onnx, saved_model or tflite"
        )


def _unit(run: TrainedModel) -> tuple[list[float], list[float]]:
    """Returns mean and std for pixel values from 0 to 1, as timm expects them."""
    normalization = run.pretrained_config.normalization
    return [value / 255 for value in normalization.mean], [v / 255 for v in normalization.std]
