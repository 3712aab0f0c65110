"""Exports a trained model to a format that other programs load without this package.

mlcls-jax export --workdir runs/b5 --format safetensors --out exported/b5

safetensors  for timm: model.safetensors and timm's config.json
keras        for keras.applications: model.weights.h5
stablehlo    for JAX: model.stablehlo, uint8 images to probabilities
onnx         for onnxruntime and others: model.onnx, the same function

Each export includes a config.json with the classes, their thresholds and how to call the model.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from mlcls_jax.options.export import KERAS, ONNX, SAFETENSORS, STABLEHLO, check, parse

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

import jax
import jax.numpy as jnp

from mlcls_jax import cli
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.images.transforms import PADDING, center_crop_share
from mlcls_jax.evaluation.metrics import finite_or_none
from mlcls_jax.export.portable import (
    INPUT,
    OUTPUT,
    Predictor,
    make_predictor,
    save_onnx,
    save_stablehlo,
)
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.weights.formats import SIDECAR
from mlcls_jax.models.weights.provenance import OWN, to_json
from mlcls_jax.models.weights.save import keras_builder, save_keras, save_timm, timm_builder
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.trained_model import TrainedModel, describe_checkpoint, load_trained_model
from mlcls_jax.run.workdir import RAW
from mlcls_jax.step.network import build_model
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console
from mlcls_jax.system.files import new_folder, write_text

# The names in timm of augment.eval_resize; its borders have the mean of the normalisation.
_CROP_MODES = {"squash": "squash", "center_crop": "center", "letterbox": "border"}


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options = parse(argv)
    distributed.start()
    run = load_trained_model(open_workdir(options.workdir), options.checkpoint)
    path, usage = export_model(run, options.format, Path(options.out))
    console.print(f"Exported the {describe_checkpoint(run.metadata)}")
    console.print(f"Wrote {path} and {Path(options.out) / SIDECAR}")
    console.print(usage)
    return 0


def export_model(run: TrainedModel, form: str, out: Path) -> tuple[Path, str]:
    """Writes a trained model and its config.json into a new folder.

    Args:
        run: the trained run.
        form: a key of WRITERS.
        out: folder to create.

    Returns:
        The file of the model, and example code that loads it.

    Raises:
        ValueError: the folder is not empty, or the format cannot hold the model.
    """
    if run.network.custom and form in (SAFETENSORS, KERAS):
        raise ValueError(
            f"{form} is for EfficientNets, and the run has model.custom={run.network.custom}; "
            "export to stablehlo or onnx"
        )
    with new_folder(out) as folder:
        path, config, usage = WRITERS[form](run, folder)
        section = {"file": path.name, "format": form} | describe_usage(run)
        write_text(folder / SIDECAR, json.dumps(config | {OWN: section}, indent=2) + "\n")
    return out / path.name, usage.replace("OUT", str(out))


def describe_usage(run: TrainedModel) -> dict[str, Any]:
    """Returns what a user of the exported model must know, ready for JSON.

    The model takes images with `channels` channels (3: RGB) from 0 to 255, resized to `image_size`
    pixels by the method `resize`, whose borders have the value `padding` (docs/export.md).  Deeper
    images are reduced to the upper 8 of `bit_depth` bits.  It returns one logit or probability per
    class, in the order of `classes`.  A class is predicted present when its probability reaches its
    threshold.  The probability is the sigmoid of the logit divided by the class's temperature;
    formats that return probabilities include this step.
    """
    config = run.config
    return {
        "variant": config.model.variant,
        "image_size": image_size(config.model),
        "channels": config.model.in_channels,
        "bit_depth": config.data.bit_depth,
        "resize": config.augment.eval_resize,
        "crop": _crop(run),
        "padding": PADDING if config.augment.eval_resize == "letterbox" else None,
        "interpolation": config.augment.interpolation,
        "pretrained_config": to_json(run.pretrained_config),
        "classes": list(run.classes),
        "thresholds": dict(zip(run.classes, run.decision_rule.thresholds, strict=True)),
        "temperatures": dict(zip(run.classes, run.decision_rule.temperatures, strict=True)),
        "step": run.metadata["step"],
        "weights": run.metadata.get("weights", RAW),
        "val": finite_or_none(run.metadata["val"] or {}),
    }


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
            "crop_pct": _crop(run),
            "crop_mode": _CROP_MODES[run.config.augment.eval_resize],
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


def write_stablehlo(run: TrainedModel, folder: Path) -> tuple[Path, dict[str, Any], str]:
    """Writes the model as one JAX function, with its inputs and outputs as config.

    Args and returns are those of `write_safetensors`.
    """
    path = save_stablehlo(folder, _predictor(run), run.network.image_shape)
    usage = (
        'predict = jax.export.deserialize(bytearray(open("OUT/model.stablehlo", "rb").read())).call'
        f"\nprobabilities = predict(images)  # {_shape(run)}"
    )
    return path, _signature(run) | {"jax": jax.__version__}, usage


def write_onnx(run: TrainedModel, folder: Path) -> tuple[Path, dict[str, Any], str]:
    """Writes the model as one ONNX function, with its inputs and outputs as config.

    Args and returns are those of `write_safetensors`.

    Raises:
        ValueError: a package is missing, or onnxruntime computes other probabilities.
    """
    path = save_onnx(folder, _predictor(run, portable=True), run.network.image_shape)
    usage = (
        'session = onnxruntime.InferenceSession("OUT/model.onnx")\n'
        f'probabilities, = session.run(None, {{"images": images}})  # {_shape(run)}'
    )
    return path, _signature(run), usage


WRITERS = {
    SAFETENSORS: write_safetensors,
    KERAS: write_keras,
    STABLEHLO: write_stablehlo,
    ONNX: write_onnx,
}


def _refuse_decoder(run: TrainedModel, builder: str) -> None:
    if run.config.model.head == "mldecoder":
        raise ValueError(
            f"{builder} has no EfficientNet with an ML-Decoder as its head; export to stablehlo "
            "or onnx"
        )


def _predictor(run: TrainedModel, portable: bool = False) -> Predictor:
    model = build_model(run.network, run.pretrained_config.convention)
    if isinstance(model, EfficientNet):
        # float32, because the program that loads the file may not support bfloat16.
        model = model.clone(dtype=jnp.dtype("float32"), portable=portable)
    temperatures = run.decision_rule.temperatures
    if all(temperature == 1 for temperature in temperatures):
        temperatures = ()
    return make_predictor(model, run.variables, run.pretrained_config.normalization, temperatures)


def _shape(run: TrainedModel) -> str:
    sides = ", ".join(map(str, run.network.image_shape))
    colours = {1: ", grey", 3: ", RGB"}.get(run.network.in_channels, "")
    return f"uint8 [batch, {sides}]{colours}, {run.config.augment.eval_resize}"


def _signature(run: TrainedModel) -> dict[str, Any]:
    return {
        "input": {"name": INPUT, "dtype": "uint8", "shape": ["batch", *run.network.image_shape]},
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", len(run.classes)]},
        "normalization": "inside",
    }


def _crop(run: TrainedModel) -> float:
    """Returns the fraction of an image's short side that is resized to the image size."""
    cropped = run.config.augment.eval_resize == "center_crop"
    return center_crop_share(image_size(run.config.model)) if cropped else 1.0


def _unit(run: TrainedModel) -> tuple[list[float], list[float]]:
    """Returns mean and std for pixel values from 0 to 1, as timm expects them."""
    normalization = run.pretrained_config.normalization
    return [value / 255 for value in normalization.mean], [v / 255 for v in normalization.std]


if __name__ == "__main__":
    cli.run(main)
