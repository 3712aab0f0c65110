"""Exports a trained model to a format that other programs load without this package.

mlcls-jax export --workdir runs/b5 --format safetensors --out exported/b5

safetensors  for timm: model.safetensors and timm's config.json
keras        for keras.applications: model.weights.h5
stablehlo    for JAX: model.stablehlo, uint8 images to probabilities
onnx         for onnxruntime and others: model.onnx, the same function; with --quantize int8 smaller
saved_model  for TensorFlow: the folder saved_model, the same function
tflite       for LiteRT on phones: model.tflite, the same function
triton       for a Triton inference server: a folder of its model repository with model.onnx

Each export includes a config.json with the classes, their thresholds and how to call the model.
"""

import json
import sys
from pathlib import Path
from typing import Any

from mlcls_jax.options.export import (
    KERAS,
    ONNX,
    SAFETENSORS,
    SAVED_MODEL,
    STABLEHLO,
    TFLITE,
    TRITON,
    check,
    check_format,
    parse,
)

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

from mlcls_jax import cli
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.images.transforms import PADDING
from mlcls_jax.evaluation.metrics import finite_or_none
from mlcls_jax.export.function_files import (
    onnx_usage,
    write_onnx,
    write_saved_model,
    write_stablehlo,
    write_tflite,
    write_triton,
)
from mlcls_jax.export.quantization import describe, quantize_onnx
from mlcls_jax.export.weight_files import crop_share, write_keras, write_safetensors
from mlcls_jax.models.weights.formats import SIDECAR
from mlcls_jax.models.weights.provenance import OWN, to_json
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.trained_model import TrainedModel, describe_checkpoint, load_trained_model
from mlcls_jax.run.workdir import RAW
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console
from mlcls_jax.system.files import new_folder, write_text

WRITERS = {
    SAFETENSORS: write_safetensors,
    KERAS: write_keras,
    STABLEHLO: write_stablehlo,
    ONNX: write_onnx,
    SAVED_MODEL: write_saved_model,
    TFLITE: write_tflite,
    TRITON: write_triton,
}


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options = parse(argv)
    distributed.start()
    workdir = open_workdir(options.workdir)
    run = load_trained_model(workdir, options.checkpoint)
    out = Path(options.out)
    path, usage = export_model(run, options.format, out, workdir, options.quantize)
    console.print(f"Exported the {describe_checkpoint(run.metadata)}")
    if options.quantize:
        console.print(describe(json.loads((out / SIDECAR).read_text())[OWN]["quantization"]))
    console.print(f"Wrote {path} and {out / SIDECAR}")
    console.print(usage)
    return 0


def export_model(
    run: TrainedModel, form: str, out: Path, workdir: Path, quantize: str = ""
) -> tuple[Path, str]:
    """Writes a trained model and its config.json into a new folder.

    Args:
        run: the trained run.
        form: a key of WRITERS.
        out: folder to create.
        workdir: of the run, whose validation images quantisation reads.
        quantize: "int8", or "" for float32.

    Returns:
        The file of the model, and example code that loads it.

    Raises:
        ValueError: the folder is not empty, a package is missing, or the format cannot hold the
            model.
    """
    check_format(form, quantize, run.network.custom)
    with new_folder(out) as folder:
        path, config, usage = WRITERS[form](run, folder)
        file = path.relative_to(folder)
        section = {"file": str(file), "format": form} | describe_usage(run)
        if quantize:
            path, section["quantization"] = quantize_onnx(run, workdir, path)
            file = path.relative_to(folder)
            section["file"], usage = str(file), onnx_usage(run, path.name)
        write_text(folder / SIDECAR, json.dumps(config | {OWN: section}, indent=2) + "\n")
    return out / file, usage.replace("OUT", str(out))


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
        "crop": crop_share(run),
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


if __name__ == "__main__":
    cli.run(main)
