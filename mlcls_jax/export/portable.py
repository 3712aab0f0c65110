"""The exported function of a trained model in JAX, its StableHLO file, and the check of others."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export  # an attribute of jax only once it is imported
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mlcls_jax.models.conventions import Normalization
from mlcls_jax.step.train_step import AnyNetwork, normalize

PLATFORMS = ("cpu", "cuda", "tpu")
STABLEHLO_FILE = "model.stablehlo"
INPUT, OUTPUT, LOGITS = "images", "probabilities", "logits"
# Largest difference of another program's logits from those of JAX, as a share of the largest logit
# or of 1; and of its probabilities from the sigmoid of its logits.
TOLERANCE = 1e-5

# uint8 [batch, size, size, channel] -> float32 [batch, class]
Logits = Callable[[jax.Array], jax.Array]
# uint8 images -> probabilities and logits, float32 [batch, class]
Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def make_logits(
    model: AnyNetwork, variables: dict, by: Normalization, temperatures: Sequence[float] = ()
) -> Logits:
    """Returns normalisation and network as one function with the weights as constants.

    Args:
        model: a network that computes in float32.
        variables: nested dict with params and batch_stats.
        by: normalisation that the weights expect.
        temperatures: divisor of the logits of each class; empty for none.

    Returns:
        A function from uint8 [image, size, size, channel] to logits, float32 [image, class].
    """
    constants = jax.device_get(variables)
    divisors = np.array(temperatures, np.float32)

    def logits(images: UInt8[Array, "batch height width channel"]) -> Float[Array, "batch class"]:
        values: Any = model.apply(constants, normalize(images, by), train=False)
        return values / divisors if divisors.size else values

    return logits


def probabilities_of(logits: jax.Array) -> jax.Array:
    """Returns the probabilities of logits, of their shape and dtype."""
    return jax.nn.sigmoid(logits)


def save_stablehlo(folder: Path, logits: Logits, shape: Sequence[int]) -> Path:
    """Writes model.stablehlo, for any batch size, on CPU, GPU or TPU.

    `jax.export.deserialize(bytearray(data)).call(images)` needs only JAX and flatbuffers.  It works
    with the JAX version that wrote the file and, as jax.export guarantees, with the versions of the
    following six months.

    Args:
        folder: an existing folder.
        logits: from `make_logits`; the file returns their probabilities.
        shape: of an image: height, width, channels.

    Returns:
        Path of the file.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    predict = jax.jit(lambda images: probabilities_of(logits(images)))
    exported = jax.export.export(predict, platforms=PLATFORMS)(images)
    (folder / STABLEHLO_FILE).write_bytes(exported.serialize())
    return folder / STABLEHLO_FILE


def check_outputs(program: str, run: Run, logits: Logits, shape: Sequence[int]) -> None:
    """Compares another program with JAX on random images, in batches of one and of three.

    The probabilities of a confident model are all close to 0 or 1, so the logits are compared.
    The probabilities need only be those of the logits, because programs approximate the sigmoid.

    Args:
        program: its name, for the message.
        run: the file that was written, in this program.
        logits: the same function in JAX.
        shape: of an image: height, width, channels.

    Raises:
        ValueError: a difference is larger than TOLERANCE.
    """
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    reference = jax.jit(logits)(images)
    for rows in (1, 3):
        expected, (found, values) = reference[:rows], run(images[:rows])
        scale = max(1.0, float(np.abs(expected).max()))
        for name, difference in (
            (LOGITS, np.abs(values - np.asarray(expected)).max() / scale),
            (OUTPUT, np.abs(found - np.asarray(probabilities_of(jnp.asarray(values)))).max()),
        ):
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the {name} of the file in {program} differ from JAX by {difference:.1e}, "
                    f"more than {TOLERANCE:.0e}, so it was not written; export to stablehlo instead"
                )
