"""Files that hold a trained model as one function, from uint8 images to probabilities."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mlcls_jax.export.layers import Ops, Tensor, write_network
from mlcls_jax.export.onnx_file import convert_onnx, save_onnx
from mlcls_jax.export.portable import (
    INPUT,
    OUTPUT,
    Logits,
    make_logits,
    save_stablehlo,
)
from mlcls_jax.export.tensorflow_files import save_tensorflow
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.step.network import build_efficientnet, build_model
from mlcls_jax.system.files import write_text

# Each writer takes a trained run and an existing folder, and returns the file, the content of
# config.json and example code that loads the model.
Written = tuple[Path, dict[str, Any], str]


def write_stablehlo(run: TrainedModel, folder: Path) -> Written:
    """Writes the model for JAX, which needs nothing else to call it."""
    path = save_stablehlo(folder, run_logits(run), run.network.image_shape)
    usage = (
        'predict = jax.export.deserialize(bytearray(open("OUT/model.stablehlo", "rb").read())).call'
        f"\nprobabilities = predict(images)  # {_shape(run)}"
    )
    return path, _signature(run) | {"jax": jax.__version__}, usage


def write_onnx(run: TrainedModel, folder: Path) -> Written:
    """Writes the model for onnxruntime.

    Raises:
        ValueError: onnxruntime computes other logits or probabilities.
    """
    logits, shape = run_logits(run), run.network.image_shape
    if run.network.custom:
        path = convert_onnx(folder, logits, shape)
    else:
        path = save_onnx(folder, _writer(run), logits, shape, len(run.classes))
    return path, _signature(run), onnx_usage(run, path.name)


def onnx_usage(run: TrainedModel, name: str) -> str:
    """Returns example code that runs an ONNX file of this name."""
    return (
        f'session = onnxruntime.InferenceSession("OUT/{name}")\n'
        f'probabilities, = session.run(None, {{"images": images}})  # {_shape(run)}'
    )


def write_triton(run: TrainedModel, folder: Path) -> Written:
    """Writes a folder for the model repository of Triton, with the ONNX file as version 1.

    Triton joins the images of several requests to batches. The classification extension names
    classes by labels.txt.

    Raises:
        ValueError: onnxruntime computes other logits or probabilities.
    """
    (version := folder / "1").mkdir()
    path, config, _ = write_onnx(run, version)
    sides = ", ".join(map(str, run.network.image_shape))
    write_text(
        folder / "config.pbtxt",
        'backend: "onnxruntime"\n'
        f"max_batch_size: {run.config.data.eval_batch_size}\n"
        f"input [{{ name: {json.dumps(INPUT)}, data_type: TYPE_UINT8, dims: [{sides}] }}]\n"
        f"output [{{ name: {json.dumps(OUTPUT)}, data_type: TYPE_FP32, dims: "
        f'[{len(run.classes)}], label_filename: "labels.txt" }}]\n'
        "dynamic_batching { }\n",
    )
    write_text(
        folder / "labels.txt", "".join(" ".join(name.split()) + "\n" for name in run.classes)
    )
    usage = (
        "tritonserver --model-repository FOLDER  # the folder that has OUT in it\n"
        f"# {INPUT}: {_shape(run)}, at most {run.config.data.eval_batch_size} a request"
    )
    return path, config, usage


def write_saved_model(run: TrainedModel, folder: Path) -> Written:
    """Writes the model for TensorFlow.

    Raises:
        ValueError: TensorFlow computes other logits or probabilities.
    """
    path = _save_tensorflow(run, folder, lite=False)
    usage = (
        'predict = tf.saved_model.load("OUT/saved_model").signatures["serving_default"]\n'
        f'probabilities = predict(images=tf.constant(images))["probabilities"]  # {_shape(run)}'
    )
    return path, _signature(run), usage


def write_tflite(run: TrainedModel, folder: Path) -> Written:
    """Writes the model for LiteRT, the former TensorFlow Lite.

    Raises:
        ValueError: LiteRT computes other logits or probabilities.
    """
    path = _save_tensorflow(run, folder, lite=True)
    usage = (
        'interpreter = ai_edge_litert.interpreter.Interpreter("OUT/model.tflite")\n'
        "predict = interpreter.get_signature_runner()\n"
        f'probabilities = predict(images=images)["probabilities"]  # {_shape(run)}'
    )
    return path, _signature(run), usage


def _save_tensorflow(run: TrainedModel, folder: Path, lite: bool) -> Path:
    return save_tensorflow(folder, _writer(run), run_logits(run), run.network.image_shape, lite)


def _writer(run: TrainedModel) -> Any:
    """Returns the function that writes the layers of the network with given operations."""
    model = build_efficientnet(run.network, run.pretrained_config.convention)
    variables = jax.device_get(run.variables)
    by, side = run.pretrained_config.normalization, run.network.image_size

    def write(ops: Ops) -> Tensor:
        return write_network(ops, model, variables, by, _temperatures(run), side)

    return write


def run_logits(run: TrainedModel) -> Logits:
    """Returns the function that the files hold, without the sigmoid: logits over temperatures."""
    model = build_model(run.network, run.pretrained_config.convention)
    if isinstance(model, EfficientNet):
        # float32, because the program that loads the file may not support bfloat16.
        model = model.clone(dtype=jnp.dtype("float32"))
    normalization = run.pretrained_config.normalization
    return make_logits(model, run.variables, normalization, _temperatures(run))


def _temperatures(run: TrainedModel) -> tuple[float, ...]:
    """Returns the temperature of each class; none if all are 1."""
    temperatures = tuple(run.decision_rule.temperatures)
    return () if all(temperature == 1 for temperature in temperatures) else temperatures


def _shape(run: TrainedModel) -> str:
    sides = ", ".join(map(str, run.network.image_shape))
    colours = {1: ", grey", 3: ", RGB"}.get(run.network.in_channels, "")
    return f"uint8 [batch, {sides}]{colours}, {run.config.augment.eval_resize}"


def _signature(run: TrainedModel) -> dict[str, Any]:
    shape = ["batch", len(run.classes)]
    return {
        "input": {"name": INPUT, "dtype": "uint8", "shape": ["batch", *run.network.image_shape]},
        "output": {"name": OUTPUT, "dtype": "float32", "shape": shape},
        "normalization": "inside",
    }
