"""Conversion between the tensors of a file and our variables: names, axes and shapes."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.variants import VARIANTS, Variant, scaled_stages
from mlcls_jax.models.weights.layouts import LAYOUTS, STEM, TOP, Layout, Path, Shape, block_parts


def find_layout(names: Collection[str]) -> Layout | None:
    """Returns the layout that names the stem or top like one of the tensors; None without any."""
    any_variant = VARIANTS["b0"]  # the name of the stem is the same in all variants
    for layout in LAYOUTS:
        if any(layout.name(path, any_variant) in names for path in (STEM, TOP)):
            return layout
    return None


def infer_variant(tensors: Mapping[str, np.ndarray], layout: Layout) -> str | None:
    """Returns the variant whose convolutions are those of the file; None if there is none.

    The number of convolutions must match, and the width of each block's projection.
    """
    convolutions = sum(array.ndim == 4 for array in tensors.values())
    for key, variant in VARIANTS.items():
        if convolutions == _convolutions(variant) and _fits(tensors, layout, variant):
            return key
    return None


def _convolutions(variant: Variant) -> int:
    """Counts stem, top, one convolution per part of a block, and two in squeeze-excite."""
    blocks = (
        (len(block_parts(stage)) + bool(stage.squeeze)) * stage.blocks
        for stage in scaled_stages(variant)
    )
    return 2 + sum(blocks)


def _fits(tensors: Mapping[str, np.ndarray], layout: Layout, variant: Variant) -> bool:
    """Returns whether the last convolution of each block exists with the width of its stage."""
    for number, stage in enumerate(scaled_stages(variant), start=1):
        for i in range(stage.blocks):
            block = ("params", "backbone", f"stage{number}", f"block{i + 1}")
            path = (*block, "project", "conv", "kernel")
            array = tensors.get(layout.name(path, variant))
            axis = (layout.axes(path) or range(4))[3]
            if array is None or array.ndim != 4 or array.shape[axis] != stage.channels:
                return False
    return True


def variable_shapes(model: EfficientNet) -> dict[Path, Shape]:
    """Returns the shape of every variable of the model by path, without computing values."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), image)
    flat: dict[Path, Any] = flatten_dict(variables)
    return {path: leaf.shape for path, leaf in flat.items()}


def with_head(shapes: Mapping[Path, Shape], num_classes: int) -> dict[Path, Shape]:
    """Returns the shapes of a model's variables with its head resized to `num_classes`.

    Args:
        shapes: shapes of the variables of a model with any head or none, by path.
        num_classes: width of the new head; 0 removes it.
    """
    backbone = {path: shape for path, shape in shapes.items() if path[1] != "head"}
    if not num_classes:
        return backbone
    features = backbone["params", "backbone", "top", "conv", "kernel"][-1]
    head = {"kernel": (features, num_classes), "bias": (num_classes,)}
    return backbone | {("params", "head", name): shape for name, shape in head.items()}


def stem_channels(tensors: Mapping[str, np.ndarray], layout: Layout, variant: str) -> int:
    """Returns the channels of the images that a file's stem takes; 3 if it has no such kernel."""
    kernel = tensors.get(layout.name(STEM, VARIANTS[variant]))
    axis = (layout.axes(STEM) or range(4))[2]
    return kernel.shape[axis] if kernel is not None and kernel.ndim == 4 else 3


def with_stem(shapes: Mapping[Path, Shape], channels: int) -> dict[Path, Shape]:
    """Returns the shapes of a model's variables for images with a number of channels."""
    rows, columns, _, features = shapes[STEM]
    return {**shapes, STEM: (rows, columns, channels, features)}


def adapt_stem(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns the stem's kernel for another number of channels, by timm's rule.

    For one channel, the kernels of the three are added, which gives the same outputs for grey
    images up to the normalisation.  For more, they are repeated and scaled by 3 / channels, so
    that the outputs keep their size.  Source: `adapt_input_conv` in timm/models/_manipulate.py.

    Args:
        kernel: float32 [k, k, 3, feature].
        channels: of the images.

    Returns:
        float32 [k, k, channels, feature].
    """
    if channels == kernel.shape[2]:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % 3] * np.float32(3 / channels)


def to_variables(
    tensors: dict[str, np.ndarray], shapes: Mapping[Path, Shape], variant: str, layout: Layout
) -> tuple[dict, list[str]]:
    """Renames and transposes the tensors of a file to the variables of a model.

    Args:
        tensors: tensors by their names in the file.  If they fit, they are removed from this
            dictionary one by one, so that no tensor is in memory twice.
        shapes: shapes of the model's variables, by path.
        variant: variant of the model, a key of VARIANTS.
        layout: layout of the file.

    Returns:
        The variables {params, batch_stats} as nested dictionaries of float32 arrays, empty if
        there is a difference; and a list of all differences between the file and the model, in one
        line each: tensors that are missing, unexpected, of another shape, not of floats or not
        finite, and variances below zero.
    """
    expected = {}
    for path, shape in shapes.items():
        axes = layout.axes(path) or tuple(range(len(shape)))
        in_file = tuple(shape[axes.index(i)] for i in range(len(shape)))
        expected[layout.name(path, VARIANTS[variant])] = (path, axes, in_file)
    extra = layout.extra if tensors.keys() & set(layout.extra) else ()
    file_shapes = {name: in_file for name, (_, _, in_file) in expected.items()}
    file_shapes |= {name: shapes[STEM][2:3] for name in extra}
    differences = [
        problem for name in file_shapes if (problem := _problem(name, file_shapes[name], tensors))
    ]
    for name in sorted(tensors.keys() - file_shapes.keys()):
        if not re.fullmatch(layout.ignored, name):
            differences.append(f"unexpected {name} {list(tensors[name].shape)}")
    if differences:
        return {}, differences
    variables = {}
    for name, (path, axes, _) in expected.items():
        array = np.ascontiguousarray(tensors.pop(name).transpose(axes), np.float32)
        if not np.isfinite(array).all() or (path[-1] == "var" and (array < 0).any()):
            differences.append(f"{name} has values that are not finite, or negative variances")
        variables[path] = array
    return ({}, differences) if differences else (unflatten_dict(variables), [])


def to_tensors(variables: Mapping[str, Any], variant: str, layout: Layout) -> dict[str, np.ndarray]:
    """Converts variables to the tensors of a file: the inverse of `to_variables`.

    Args:
        variables: {params, batch_stats}, nested, of a model of the variant.
        variant: a key of VARIANTS.
        layout: layout of the file.

    Returns:
        Contiguous float32 arrays by their names in the file.
    """
    tensors = {}
    for path, leaf in flatten_dict(dict(variables)).items():
        array = np.asarray(leaf, np.float32)
        axes = layout.axes(path) or tuple(range(array.ndim))
        array = array.transpose([axes.index(i) for i in range(array.ndim)])
        tensors[layout.name(path, VARIANTS[variant])] = np.ascontiguousarray(array)
    return tensors


def _problem(name: str, shape: Shape, tensors: Mapping[str, np.ndarray]) -> str | None:
    if name not in tensors:
        return f"missing {name} {list(shape)}"
    array = tensors[name]
    if array.shape != shape:
        return f"{name} is {list(array.shape)}, expected {list(shape)}"
    if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
        return f"{name} is {array.dtype}, expected floats"
    return None
