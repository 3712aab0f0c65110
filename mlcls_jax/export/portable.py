"""Portable files of a trained model: one function from uint8 images to probabilities."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from logging import getLogger
from pathlib import Path
from typing import Any

import jax
import jax.export  # an attribute of jax only once it is imported
import jax.numpy as jnp
import numpy as np

from mlcls_jax.models.conventions import Normalization
from mlcls_jax.step.train_step import AnyNetwork, normalize

PLATFORMS = ("cpu", "cuda", "tpu")
STABLEHLO_FILE, ONNX_FILE = "model.stablehlo", "model.onnx"
TINY = 1e-30  # close to the smallest float32
INPUT, OUTPUT = "images", "probabilities"
OPSET = 18  # the newest that onnxruntime 1.19 supports
TOLERANCE = 1e-3  # relative difference of log-probabilities between JAX and onnxruntime
JAX2ONNX = "jax2onnx>=0.17.1,<0.18"  # installed without dependencies: it pins an older Orbax

# uint8 [batch, size, size, channel] -> float32 [batch, class]
Predictor = Callable[[jax.Array], jax.Array]


def make_predictor(
    model: AnyNetwork, variables: dict, by: Normalization, temperatures: Sequence[float] = ()
) -> Predictor:
    """Returns normalisation, network and sigmoid as one function with the weights as constants.

    Args:
        model: a network that computes in float32.
        variables: nested dict with params and batch_stats.
        by: normalisation that the weights expect.
        temperatures: divisor of the logits of each class; empty for none.

    Returns:
        A function from uint8 [image, size, size, channel] to probabilities, float32 [image, class].
    """
    constants = jax.device_get(variables)
    divisors = np.array(temperatures, np.float32)

    def probabilities(images):
        logits: Any = model.apply(constants, normalize(images, by), train=False)
        return jax.nn.sigmoid(logits / divisors if divisors.size else logits)

    return probabilities


def save_stablehlo(folder: Path, predictor: Predictor, shape: Sequence[int]) -> Path:
    """Writes model.stablehlo, for any batch size, on CPU, GPU or TPU.

    `jax.export.deserialize(bytearray(data)).call(images)` needs only JAX and flatbuffers.  It works
    with the JAX version that wrote the file and, as jax.export guarantees, with the versions of the
    following six months.

    Args:
        folder: an existing folder.
        predictor: from `make_predictor`.
        shape: of an image: height, width, channels.

    Returns:
        Path of the file.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    exported = jax.export.export(jax.jit(predictor), platforms=PLATFORMS)(images)
    (folder / STABLEHLO_FILE).write_bytes(exported.serialize())
    return folder / STABLEHLO_FILE


def save_onnx(folder: Path, predictor: Predictor, shape: Sequence[int]) -> Path:
    """Writes model.onnx, for any batch size, after comparing onnxruntime with JAX.

    Args:
        folder: an existing folder.
        predictor: from `make_predictor`, for a model with `portable` set, because ONNX cannot
            choose code by platform.
        shape: of an image: height, width, channels.

    Returns:
        Path of the file.

    Raises:
        ValueError: a package is missing, or onnxruntime computes other probabilities.
    """
    missing = [name for name in ("jax2onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the export to ONNX needs {' and '.join(missing)}; run: pip install onnx onnx-ir "
            f"onnxruntime && pip install --no-deps '{JAX2ONNX}'"
        )
    for name in ("jax2onnx", "onnx_ir"):  # they warn about features that are not used here
        getLogger(name).setLevel("ERROR")
    import jax2onnx  # an optional dependency

    images = jax.ShapeDtypeStruct(("batch", *shape), jnp.uint8)
    model = jax2onnx.to_onnx(
        predictor, [images], opset=OPSET, input_names=[INPUT], output_names=[OUTPUT]
    )
    data = model.SerializeToString()
    _check_onnx(data, predictor, shape)
    (folder / ONNX_FILE).write_bytes(data)
    return folder / ONNX_FILE


def _check_onnx(data: bytes, predictor: Predictor, shape: Sequence[int]) -> None:
    """Compares onnxruntime with JAX on random images, in batches of one and of three."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    for rows in (1, 3):
        (onnx,) = session.run([OUTPUT], {INPUT: images[:rows]})
        reference = np.asarray(jax.jit(predictor)(images[:rows]))
        # Logarithms, because all probabilities can be small for images of noise.
        expected, got = (
            np.log(values + np.float32(TINY)) for values in (reference, np.asarray(onnx))
        )
        difference = (np.abs(got - expected) / np.maximum(1, np.abs(expected))).max()
        if not difference <= TOLERANCE:
            raise ValueError(
                f"log-probabilities of the ONNX file in onnxruntime differ from JAX by "
                f"{difference:.1e}, so the file was not written; export to stablehlo instead"
            )
