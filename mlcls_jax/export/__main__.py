"""Exports a trained model to a format that other programs load without this package.

mlcls-jax export --workdir runs/b5 --format safetensors --out exported/b5
mlcls-jax export --workdir runs/b5 --push user/name

safetensors  for timm: model.safetensors and timm's config.json
keras        for keras.applications: model.weights.h5
stablehlo    for JAX: model.stablehlo, uint8 images to probabilities
onnx         for onnxruntime and others: model.onnx, the same function; with --quantize int8 smaller
saved_model  for TensorFlow: the folder saved_model, the same function
tflite       for LiteRT on phones: model.tflite, the same function
triton       for a Triton inference server: a folder of its model repository with model.onnx

Each export includes a config.json with the classes, their thresholds and how to call the model.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
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

from mlcls_jax import __version__, cli
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
from mlcls_jax.export.model_card import CARD, hub_usage, model_card
from mlcls_jax.export.quantization import describe, quantize_onnx
from mlcls_jax.export.weight_files import crop_share, write_keras, write_safetensors
from mlcls_jax.models.weights.formats import SIDECAR
from mlcls_jax.models.weights.hub import PREFIX, on_hub
from mlcls_jax.models.weights.provenance import OWN, to_json
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.exported import write_description
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
    console.print(f"Exporting the {describe_checkpoint(run.metadata)}")
    if not options.push:
        return _export(run, options, Path(options.out), workdir)
    with TemporaryDirectory() as folder:
        out = Path(options.out or Path(folder) / "model")
        url, name = push_model(run, workdir, out, options.push, options.private)
    console.print(f"Pushed to {url}")
    console.print(hub_usage(name))
    return 0


def _export(run: TrainedModel, options: argparse.Namespace, out: Path, workdir: Path) -> int:
    path, usage = export_model(run, options.format, out, workdir, options.quantize)
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


def push_model(
    run: TrainedModel, workdir: Path, out: Path, repo: str, private: bool = False
) -> tuple[str, str]:
    """Exports a trained model for timm and this package, and uploads it to the Hub.

    Args:
        run: the trained run.
        workdir: of the run, for its scores and its data card.
        out: folder to create; the repository gets its files.
        repo: such as "me/birds"; it is created if necessary.
        private: whether a new repository is private.

    Returns:
        The address of the repository, and the name of this revision: hf-hub:<repo>@<commit>.

    Raises:
        ValueError: the model does not fit timm, or the Hub refuses it or cannot be reached.
    """
    export_model(run, SAFETENSORS, out, workdir)
    write_description(run, out)
    write_text(out / CARD, model_card(run, workdir, repo))

    def upload(hub: Any) -> tuple[str, str]:
        api = hub.HfApi(library_name="mlcls_jax", library_version=__version__)
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        message = f"Checkpoint of step {run.metadata['step']}"
        commit = api.upload_folder(repo_id=repo, folder_path=out, commit_message=message)
        return str(url), f"{PREFIX}{repo}@{commit.oid}"

    return on_hub(f"--push {repo}", upload)


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
