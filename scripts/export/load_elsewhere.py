"""Runs an exported model on images, in a process that needs only the program of the format.

    python -I scripts/export/load_elsewhere.py FORMAT FOLDER IMAGES.npy OUT.npz

Writes the probabilities, the logits where the format gives them, and the milliseconds per image of
batches of 1 and of 16. It imports nothing of the project, and fails if something else does.
"""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCHES, SECONDS = (1, 16), 2.0
Predict = Callable[[np.ndarray], np.ndarray]  # uint8 images -> probabilities or logits


def stablehlo(folder: Path, _: dict[str, Any]) -> Predict:
    import jax

    data = bytearray((folder / "model.stablehlo").read_bytes())
    call = jax.jit(jax.export.deserialize(data).call)
    return lambda images: np.asarray(call(images))


def onnx(folder: Path, config: dict[str, Any]) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / config["mlcls_jax"]["file"])
    return lambda images: np.asarray(session.run(None, {"images": images})[0])


def saved_model(folder: Path, _: dict[str, Any]) -> Predict:
    import tensorflow as tf

    call = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
    return lambda images: call(images=tf.constant(images))["probabilities"].numpy()


def tflite(folder: Path, _: dict[str, Any]) -> Predict:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(folder / "model.tflite"), num_threads=2)
    runner = interpreter.get_signature_runner()
    return lambda images: runner(images=images)["probabilities"]


def safetensors(folder: Path, config: dict[str, Any]) -> Predict:
    import torch

    # Torchvision's wheel on PyPI does not find its operators with torch for CPU.
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm
    from safetensors.torch import load_file

    pretrained = config["pretrained_cfg"]
    count, given = config["num_classes"], config["model_args"]
    model = timm.create_model(config["architecture"], num_classes=count, **given).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    mean, std = (torch.tensor(pretrained[name]).reshape(1, -1, 1, 1) for name in ("mean", "std"))

    def predict(images: np.ndarray, _: object = declared) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            return model(((x - mean) / std).contiguous()).numpy()

    return predict


def keras(folder: Path, config: dict[str, Any]) -> Predict:
    import keras as framework
    import tensorflow as tf

    build = getattr(framework.applications, config["application"])
    model = build(**config["arguments"])
    model.load_weights(folder / "model.weights.h5")
    call = tf.function(lambda images: model(images, training=False))

    def predict(images: np.ndarray) -> np.ndarray:
        x = images.astype(np.float32)
        if config["normalization"] != "inside":
            x = (x - config["normalization"]["mean"]) / config["normalization"]["std"]
        return call(tf.constant(x, tf.float32)).numpy()

    return predict


LOADERS = {
    "stablehlo": stablehlo,
    "onnx": onnx,
    "saved_model": saved_model,
    "tflite": tflite,
    "safetensors": safetensors,
    "keras": keras,
}
GIVE_LOGITS = ("safetensors", "keras")


def milliseconds(predict: Predict, images: np.ndarray, batch: int) -> float:
    """Returns the median milliseconds per image of calls with a batch size."""
    rows = np.resize(images, (batch, *images.shape[1:]))
    predict(rows)
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 5:
        began = time.perf_counter()
        predict(rows)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times)) / batch


def main(form: str, folder: Path, images: Path, out: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    predict, pixels = LOADERS[form](folder, config), np.load(images)
    outputs = np.concatenate([predict(pixels[i : i + 16]) for i in range(0, len(pixels), 16)])
    speed = [milliseconds(predict, pixels, batch) for batch in BATCHES]
    ours = [name for name in sys.modules if name.split(".")[0] in ("mlcls_jax", "flax", "configs")]
    if ours:
        sys.exit(f"the process has modules of the project: {ours[0]}")
    kind = "logits" if form in GIVE_LOGITS else "probabilities"
    arrays: dict[str, Any] = {kind: outputs, "speed": speed}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
