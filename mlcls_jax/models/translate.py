"""Names, axes and shapes of pretrained tensors: from a file's own to those of our variables.

The variables of the model say what a file must hold: each of their paths has one name in the
file, and each name in the file must belong to one path or be a known non-weight.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.variants import VARIANTS, Variant, scaled_stages

Path = tuple[str, ...]  # of a variable: ("params", "backbone", "stem", "conv", "kernel")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class FileFormat:
    """How one kind of file names and orders the tensors of an EfficientNet.

    Attributes:
        name: of the tensor for a path of our variables, given the variant.
        axes: by which a file's tensor is transposed to ours, given its path.
        head: path in the file of the kernel of the head, and its class axis.
        extra: tensors beside the variables, all or none of which a file holds, and their shapes.
        ignored: regular expression of the names of non-weights.
        lite: whether the files hold the lite variants, or the plain ones.
    """

    name: Callable[[Path, Variant], str]
    axes: Callable[[Path], Shape | None]
    head: tuple[str, int]
    extra: Mapping[str, Shape]
    ignored: str
    lite: bool

    @property
    def variants(self) -> list[str]:
        """Keys of the variants that the files hold."""
        return [key for key, variant in VARIANTS.items() if variant.lite == self.lite]


def keras_name(path: Path, variant: Variant) -> str:
    """Such as "block2a_expand_bn/moving_mean"; source: keras/src/applications/efficientnet.py."""
    _, *modules, weight = path
    if modules == ["head"]:
        return f"predictions/{weight}"
    if modules[-1] == "norm":
        weight = {
            "scale": "gamma",
            "bias": "beta",
            "mean": "moving_mean",
            "var": "moving_variance",
        }[weight]
    match modules[1:]:
        case [("stem" | "top") as end, kind]:
            return f"{end}_{'bn' if kind == 'norm' else 'conv'}/{weight}"
        case [stage, block, *rest]:
            letter = chr(ord("a") + int(block.removeprefix("block")) - 1)
            layer = {
                ("expand", "conv"): "expand_conv",
                ("expand", "norm"): "expand_bn",
                ("depthwise", "conv"): "dwconv",
                ("depthwise", "norm"): "bn",
                ("se", "reduce"): "se_reduce",
                ("se", "expand"): "se_expand",
                ("project", "conv"): "project_conv",
                ("project", "norm"): "project_bn",
            }[rest[0], rest[-1]]
            return f"block{stage.removeprefix('stage')}{letter}_{layer}/{weight}"
    raise KeyError("/".join(path))


def torch_name(path: Path, variant: Variant) -> str:
    """Such as "_blocks.1._bn0.running_mean"; source: the package efficientnet-lite-pytorch."""
    _, *modules, weight = path
    if weight in ("kernel", "scale"):
        weight = "weight"
    weight = {"mean": "running_mean", "var": "running_var"}.get(weight, weight)
    if modules == ["head"]:
        return f"_fc.{weight}"
    match modules[1:]:
        case ["stem", kind]:
            return f"{'_bn0' if kind == 'norm' else '_conv_stem'}.{weight}"
        case ["top", kind]:
            return f"{'_bn1' if kind == 'norm' else '_conv_head'}.{weight}"
        case [stage, block, part, kind]:
            before = scaled_stages(variant)[: int(stage.removeprefix("stage")) - 1]
            number = sum(stage.blocks for stage in before) + int(block.removeprefix("block")) - 1
            norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
            layer = norm[part] if kind == "norm" else f"_{part}_conv"
            return f"_blocks.{number}.{layer}.{weight}"
    raise KeyError("/".join(path))


def _keras_axes(path: Path) -> Shape | None:
    # Keras keeps a depthwise kernel as [k, k, channel, 1], Flax as [k, k, 1, channel].
    return (0, 1, 3, 2) if path[-3:] == ("depthwise", "conv", "kernel") else None


def _torch_axes(path: Path) -> Shape | None:
    if path[-1] != "kernel":
        return None
    return (1, 0) if path[-2] == "head" else (2, 3, 1, 0)  # OIHW -> HWIO


KERAS = FileFormat(
    name=keras_name,
    axes=_keras_axes,
    head=("predictions/kernel", 1),
    extra={"normalization/mean": (3,), "normalization/variance": (3,)},
    ignored=r"normalization/count|.*/seed_generator/.*",
    lite=False,
)
TORCH = FileFormat(
    name=torch_name,
    axes=_torch_axes,
    head=("_fc.weight", 0),
    extra={},
    ignored=r".*\.num_batches_tracked",
    lite=True,
)


def infer_variant(tensors: Mapping[str, np.ndarray], form: FileFormat) -> str | None:
    """The variant whose blocks and block widths are those of the file; None if there is none."""
    kernels = {name: array for name, array in tensors.items() if "project_conv" in name}
    for key in form.variants:
        widths, axis = {}, 3
        for number, stage in enumerate(scaled_stages(VARIANTS[key]), start=1):
            for i in range(stage.blocks):
                block = ("params", "backbone", f"stage{number}", f"block{i + 1}")
                path = (*block, "project", "conv", "kernel")
                axis = (form.axes(path) or range(4))[3]
                widths[form.name(path, VARIANTS[key])] = stage.channels
        if widths == {name: k.shape[axis] for name, k in kernels.items() if k.ndim == 4}:
            return key
    return None


def variable_shapes(model: EfficientNet) -> dict[Path, Shape]:
    """Shape of every variable of the model by path, without computing any."""
    picture = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), picture)
    flat: dict[Path, Any] = flatten_dict(variables)
    return {path: leaf.shape for path, leaf in flat.items()}


def to_variables(
    tensors: Mapping[str, np.ndarray], model: EfficientNet, form: FileFormat
) -> tuple[dict, list[str]]:
    """Renames and transposes the tensors of a file to the variables of a model.

    Args:
        tensors: by their names in the file.
        model: whose variables they are to be.
        form: of the file.

    Returns:
        The variables {params, batch_stats} as nested dictionaries of float32 arrays, and every
        difference between the file and the model, one line each: tensors missing, unexpected, of
        another shape or not of floats.  The variables are complete if there is no difference.
    """
    shapes = variable_shapes(model)
    variant = VARIANTS[model.variant]
    names = {path: form.name(path, variant) for path in shapes}
    extra = form.extra if form.extra.keys() & tensors.keys() else {}
    variables, differences = {}, []
    for path, shape in shapes.items():
        axes = form.axes(path) or tuple(range(len(shape)))
        due = tuple(shape[axes.index(i)] for i in range(len(shape)))
        if problem := _problem(names[path], due, tensors):
            differences.append(problem)
        else:
            array = tensors[names[path]].transpose(axes)
            variables[path] = np.ascontiguousarray(array, np.float32)
    differences += [p for name in extra if (p := _problem(name, extra[name], tensors))]
    for name in sorted(tensors.keys() - set(names.values()) - extra.keys()):
        if not re.fullmatch(form.ignored, name):
            differences.append(f"unexpected {name} {list(tensors[name].shape)}")
    return unflatten_dict(variables), differences


def _problem(name: str, due: Shape, tensors: Mapping[str, np.ndarray]) -> str | None:
    if name not in tensors:
        return f"missing {name} {list(due)}"
    array = tensors[name]
    if array.shape != due:
        return f"{name} is {list(array.shape)} where {list(due)} is due"
    if array.dtype.kind != "f":
        return f"{name} is {array.dtype} where floats are due"
    return None
