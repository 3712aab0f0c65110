"""A trained model as one function from uint8 images to probabilities, in portable files."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from logging import getLogger
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlcls_jax.models.conventions import Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.step.train_step import normalize

PLATFORMS = ("cpu", "cuda", "tpu")
STABLEHLO_FILE, ONNX_FILE = "model.stablehlo", "model.onnx"
TINY = 1e-30  # below it float32 has no digits
INPUT, OUTPUT = "images", "probabilities"
OPSET = 18  # the newest that onnxruntime 1.19 reads as well
TOLERANCE = 1e-3  # relative, of the logarithm of a probability, between JAX and onnxruntime
JAX2ONNX = "jax2onnx>=0.17.1,<0.18"  # without what it asks for: it pins an older Orbax than ours

# uint8 [batch, size, size, 3] -> float32 [batch, class]
Predictor = Callable[[jax.Array], jax.Array]


def make_predictor(
    model: EfficientNet, variables: dict, by: Normalization, temperatures: Sequence[float] = ()
) -> Predictor:
    """Normalisation, network and sigmoid as one function, with its weights inside.

    Args:
        model: that computes in float32.
        variables: {params, batch_stats}, nested; held as NumPy arrays.
        by: the normalisation of the weights.
        temperatures: per class, to divide the logits by; empty for none.
    """
    inside = jax.device_get(variables)
    divide = np.array(temperatures, np.float32)

    def probabilities(images):
        logits: Any = model.apply(inside, normalize(images, by), train=False)
        return jax.nn.sigmoid(logits / divide if divide.size else logits)

    return probabilities


def save_stablehlo(folder: Path, predictor: Predictor, size: int) -> Path:
    """Writes model.stablehlo, for any batch size, on CPU, GPU or TPU.

    `jax.export.deserialize(bytearray(data)).call(images)` needs JAX and flatbuffers alone: the
    JAX that wrote it and, as jax.export promises, any of the six months after it.

    Args:
        folder: an existing one.
        predictor: see `make_predictor`.
        size: side of the images in pixels.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    exported = jax.export.export(jax.jit(predictor), platforms=PLATFORMS)(images)
    (folder / STABLEHLO_FILE).write_bytes(exported.serialize())
    return folder / STABLEHLO_FILE


def save_onnx(folder: Path, predictor: Predictor, size: int) -> Path:
    """Writes model.onnx, for any batch size, after running it in onnxruntime.

    Args:
        folder, size: as `save_stablehlo`.
        predictor: of a `portable` model: ONNX has no choice by platform.

    Raises:
        ValueError: the extra is not installed, or onnxruntime gives other probabilities.
    """
    missing = [name for name in ("jax2onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the export to ONNX needs {' and '.join(missing)}; run: pip install onnx onnx-ir "
            f"onnxruntime && pip install --no-deps '{JAX2ONNX}'"
        )
    for name in ("jax2onnx", "onnx_ir"):  # they warn of what this conversion does not use
        getLogger(name).setLevel("ERROR")
    import jax2onnx  # here, as the other formats do without

    images = jax.ShapeDtypeStruct(("batch", size, size, 3), jnp.uint8)
    model = jax2onnx.to_onnx(
        predictor, [images], opset=OPSET, input_names=[INPUT], output_names=[OUTPUT]
    )
    data = model.SerializeToString()
    _check_onnx(data, predictor, size)
    (folder / ONNX_FILE).write_bytes(data)
    return folder / ONNX_FILE


def _check_onnx(data: bytes, predictor: Predictor, size: int) -> None:
    """Compares onnxruntime with JAX on random images, in batches of one and of three."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    for rows in (1, 3):
        (theirs,) = session.run([OUTPUT], {INPUT: images[:rows]})
        ours = np.asarray(jax.jit(predictor)(images[:rows]))
        # Logarithms: noise has no class in it, so that all probabilities are small.
        expected, got = (np.log(values + np.float32(TINY)) for values in (ours, np.asarray(theirs)))
        difference = (np.abs(got - expected) / np.maximum(1, np.abs(expected))).max()
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the logarithms of the probabilities that the ONNX file gives in onnxruntime are "
                f"{difference:.1e} off, so it is not written; export to stablehlo"
            )
