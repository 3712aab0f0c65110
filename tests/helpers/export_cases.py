"""Small networks with random weights for tests of exported files, and their logits in JAX."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from mlcls_jax.export.layers import write_network
from mlcls_jax.export.portable import make_logits
from mlcls_jax.models.conventions import IMAGENET, KERAS, LITE, TIMM, Convention, Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import DecoderSize
from mlcls_jax.models.variants import B0_STAGES, V2B0_STAGES, VARIANTS, Variant
from mlcls_jax.step.param_tree import flatten, unflatten

# One block of each kind, and every stride: the last map has a 32nd of the side.
INVERTED = tuple(replace(B0_STAGES[i], blocks=1 + (i == 1)) for i in (0, 1, 2, 3, 5))
FUSED = tuple(replace(V2B0_STAGES[i], blocks=1 + (i == 1)) for i in (0, 1, 2, 3, 5))
SMALL = {
    "lite": Variant(0.25, 1.0, 32, 0.2, lite=True, stages=INVERTED),
    "silu": Variant(0.25, 1.0, 32, 0.2, stages=INVERTED),
    "fused": Variant(0.25, 1.0, 32, 0.2, stages=FUSED, keep=0),
}


@dataclass(frozen=True)
class Case:
    """A network, and what its logits depend on.

    Attributes:
        variant: a key of SMALL.
        classes: number of outputs.
        convention, by: of its weights.
        side, channels: of the images.
        decoder: of an ML-Decoder; None for pooling.
        gain: of the last layer: 1 for the small logits of a new head, more for confident ones.
        temperatures: whether every class has one of its own.
    """

    variant: str = "lite"
    classes: int = 3
    convention: Convention = KERAS
    by: Normalization = LITE
    side: int = 64
    channels: int = 3
    decoder: DecoderSize | None = None
    gain: float = 1.0
    temperatures: bool = False


CASES = {
    "frozen": Case(),
    "fine-tuned": Case(gain=10.0, temperatures=True),
    "ml-decoder": Case(decoder=DecoderSize(3, 64), classes=7, by=IMAGENET, temperatures=True),
    "ml-decoder of 300 classes": Case("silu", 300, decoder=DecoderSize(0, 32), side=96),
    "1 class": Case("silu", 1, by=IMAGENET, gain=10.0),
    "300 classes": Case("fused", 300, by=IMAGENET),
    "symmetric padding": Case("silu", 3, TIMM, IMAGENET, gain=10.0),
    "odd sides": Case("fused", 3, side=75),
    "odd sides, symmetric padding": Case("silu", 3, TIMM, side=75),
    "4 channels": Case("fused", 3, by=IMAGENET.for_channels(4), channels=4),
}


@contextmanager
def small_variants() -> Iterator[None]:
    """Adds the networks of SMALL to those of the project within the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, variant in SMALL.items():
            patch.setitem(VARIANTS, name, variant)
        yield


class Written:
    """A case with weights: its function in JAX, and the writer of its layers."""

    def __init__(self, case: Case):
        self.shape = case.side, case.side, case.channels
        model = EfficientNet(
            variant=case.variant,
            num_classes=case.classes,
            decoder=case.decoder,
            convention=case.convention,
        )
        images = jnp.zeros((1, *self.shape))
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        variables = random_variables(dict(shapes), case.gain)
        temperatures = tuple(np.linspace(0.5, 2.0, case.classes)) if case.temperatures else ()
        self.logits = make_logits(model, variables, case.by, temperatures)
        self.write = partial(
            write_network,
            model=model,
            variables=variables,
            by=case.by,
            temperatures=temperatures,
            side=case.side,
        )
        self.images = photographs(case.side, case.channels)
        self.expected = np.asarray(jax.jit(self.logits)(self.images))


def random_variables(shapes: dict, gain: float) -> dict:
    """Returns variables whose normalisations all matter, with activations of order 1."""
    rng = np.random.default_rng(0)

    def values(path: str, shape: tuple[int, ...]) -> np.ndarray:
        name = path.rsplit("/", 1)[-1]
        if name in ("var", "scale"):
            return rng.uniform(0.5, 1.5, shape)
        if name in ("mean", "bias"):
            return rng.normal(0, 0.3, shape)
        fan_in = shape[-1] if path.startswith("params/head/query") else np.prod(shape[:-1])
        return rng.normal(0, np.sqrt(1.5 / fan_in), shape)

    flat = {path: values(path, leaf.shape) for path, leaf in flatten(shapes).items()}
    flat = {path: value.astype(np.float32) for path, value in flat.items()}
    flat["params/head/kernel"] *= gain
    return unflatten(flat)


def photographs(side: int, channels: int) -> np.ndarray:
    """Returns three crops of photographs, uint8 [3, side, side, channel]."""
    china, flower = load_sample_images().images
    corners = (china, 0, 0), (flower, 150, 250), (china, 300, 500)
    crops = [image[y : y + side, x : x + side] for image, y, x in corners]
    images = np.stack(crops)
    return np.concatenate([images, images], axis=-1)[..., :channels]


def predicted_elsewhere(program: str, folder: Path) -> None:
    """Runs a Python program in a process that finds nothing of this project, with the folder."""
    subprocess.run([sys.executable, "-I", "-c", program, str(folder)], check=True, cwd=folder)
