"""Tensors of a file to our variables and back: names, axes and shapes, with nothing left over."""

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
    """The layout in which the tensors are named, known by its stem or top; None: none of them."""
    some = VARIANTS["b0"]
    for layout in LAYOUTS:
        if any(layout.name(path, some) in names for path in (STEM, TOP)):
            return layout
    return None


def infer_variant(tensors: Mapping[str, np.ndarray], layout: Layout) -> str | None:
    """The variant with the blocks of the file, their widths and no other convolution, or None."""
    convolutions = sum(array.ndim == 4 for array in tensors.values())
    for key, variant in VARIANTS.items():
        if convolutions == _convolutions(variant) and _fits(tensors, layout, variant):
            return key
    return None


def _convolutions(variant: Variant) -> int:
    """How many a variant has: stem, top, one per part of a block, and two in squeeze-excite."""
    blocks = (
        (len(block_parts(stage)) + bool(stage.squeeze)) * stage.blocks
        for stage in scaled_stages(variant)
    )
    return 2 + sum(blocks)


def _fits(tensors: Mapping[str, np.ndarray], layout: Layout, variant: Variant) -> bool:
    """Whether the last convolution of each block is there, with the width of its stage."""
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
    """Shape of every variable of the model by path, without computing any."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), image)
    flat: dict[Path, Any] = flatten_dict(variables)
    return {path: leaf.shape for path, leaf in flat.items()}


def with_head(shapes: Mapping[Path, Shape], num_classes: int) -> dict[Path, Shape]:
    """The shapes of a model's variables, as they are with a head of another width; 0: with none."""
    backbone = {path: shape for path, shape in shapes.items() if path[1] != "head"}
    if not num_classes:
        return backbone
    features = backbone["params", "backbone", "top", "conv", "kernel"][-1]
    head = {"kernel": (features, num_classes), "bias": (num_classes,)}
    return backbone | {("params", "head", name): shape for name, shape in head.items()}


def to_variables(
    tensors: dict[str, np.ndarray], shapes: Mapping[Path, Shape], variant: str, layout: Layout
) -> tuple[dict, list[str]]:
    """Renames and transposes the tensors of a file to the variables of a model.

    Args:
        tensors: by their names in the file.  Where they fit, the dictionary is emptied on the way,
            so that no tensor is held twice.
        shapes: of the variables that they are to be.
        variant: of the model, a key of VARIANTS.
        layout: of the file.

    Returns:
        The variables {params, batch_stats} as nested dictionaries of float32 arrays, empty if
        there is a difference; and every difference between the file and the model, one line each:
        tensors missing, unexpected, of another shape, not of floats, not finite, or variances
        below zero.
    """
    due = {}
    for path, shape in shapes.items():
        axes = layout.axes(path) or tuple(range(len(shape)))
        in_file = tuple(shape[axes.index(i)] for i in range(len(shape)))
        due[layout.name(path, VARIANTS[variant])] = (path, axes, in_file)
    extra = layout.extra if layout.extra.keys() & tensors.keys() else {}
    wanted = {name: in_file for name, (_, _, in_file) in due.items()} | dict(extra)
    differences = [p for name in wanted if (p := _problem(name, wanted[name], tensors))]
    for name in sorted(tensors.keys() - wanted.keys()):
        if not re.fullmatch(layout.ignored, name):
            differences.append(f"unexpected {name} {list(tensors[name].shape)}")
    if differences:
        return {}, differences
    variables = {}
    for name, (path, axes, _) in due.items():
        array = np.ascontiguousarray(tensors.pop(name).transpose(axes), np.float32)
        if not np.isfinite(array).all() or (path[-1] == "var" and (array < 0).any()):
            differences.append(f"{name} holds values that no training leaves")
        variables[path] = array
    return ({}, differences) if differences else (unflatten_dict(variables), [])


def to_tensors(variables: Mapping[str, Any], variant: str, layout: Layout) -> dict[str, np.ndarray]:
    """The inverse: float32 tensors with the names and axes of a file, contiguous.

    Args:
        variables: {params, batch_stats}, nested, of a model of the variant.
        variant: a key of VARIANTS.
        layout: of the file.
    """
    tensors = {}
    for path, leaf in flatten_dict(dict(variables)).items():
        array = np.asarray(leaf, np.float32)
        axes = layout.axes(path) or tuple(range(array.ndim))
        array = array.transpose([axes.index(i) for i in range(array.ndim)])
        tensors[layout.name(path, VARIANTS[variant])] = np.ascontiguousarray(array)
    return tensors


def _problem(name: str, due: Shape, tensors: Mapping[str, np.ndarray]) -> str | None:
    if name not in tensors:
        return f"missing {name} {list(due)}"
    array = tensors[name]
    if array.shape != due:
        return f"{name} is {list(array.shape)} where {list(due)} is due"
    if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
        return f"{name} is {array.dtype} where floats are due"
    return None
