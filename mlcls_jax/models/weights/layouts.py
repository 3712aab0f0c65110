"""Layouts: how the code bases name the tensors of an EfficientNet and order their axes.

A layout maps each path of our variables to the name of a tensor and the order of its axes.  So the
variables of a model determine what a file must contain in any layout.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mlcls_jax.models.variants import Stage, Variant, scaled_stages

Path = tuple[str, ...]  # path of a variable: ("params", "backbone", "stem", "conv", "kernel")
Shape = tuple[int, ...]

STEM: Path = ("params", "backbone", "stem", "conv", "kernel")
TOP: Path = ("params", "backbone", "top", "conv", "kernel")
HEAD: Path = ("params", "head", "kernel")


@dataclass(frozen=True)
class Layout:
    """Names and axis orders of the tensors of one code base.

    Attributes:
        title: name in messages.
        code_base: code base in `conventions.CODE_BASES`; None if several use this layout and only
            the name of the model distinguishes them.
        name: returns the name of a tensor, given a path of our variables and the variant.
        axes: returns the axes by which a tensor of a file is transposed to ours, given the path of
            the variable; None means that it stays as it is.
        extra: names of tensors that are not variables, with one number for each channel of the
            images (mean and variance of the normalisation); a file has all or none of them.
        ignored: regular expression for the names of tensors that are not weights.
        advprop: regular expression that is found in the names of files trained with AdvProp.
    """

    title: str
    code_base: str | None
    name: Callable[[Path, Variant], str]
    axes: Callable[[Path], Shape | None]
    extra: tuple[str, ...]
    ignored: str
    advprop: str = "(?!)"  # matches nothing


def keras_name(path: Path, variant: Variant) -> str:
    """Returns Keras's name of a variable, such as "block2a_expand_bn/moving_mean".

    Source: keras/src/applications/efficientnet.py and efficientnet_v2.py.
    """
    _, *modules, weight = path
    norm = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    if modules[-1] == "norm":
        weight = norm[weight]
    match modules:
        case ["head"]:
            return f"predictions/{weight}"
        case [_, end, kind]:
            return f"{end}_{'bn' if kind == 'norm' else 'conv'}/{weight}"
        case [_, *_, part, kind]:
            number, block, _ = _place(modules, variant)
            layer = {
                "expand/conv": "expand_conv",
                "expand/norm": "expand_bn",
                "depthwise/conv": "dwconv2" if variant.v2 else "dwconv",
                "depthwise/norm": "bn",
                "se/reduce": "se_reduce",
                "se/expand": "se_expand",
                "project/conv": "project_conv",
                "project/norm": "project_bn",
            }[f"{part}/{kind}"]
            return f"block{number + 1}{chr(ord('a') + block)}_{layer}/{weight}"
    raise KeyError("/".join(path))


def timm_name(path: Path, variant: Variant) -> str:
    """Returns timm's name of a variable, such as "blocks.1.0.bn1.running_mean".

    Source: timm/models/_efficientnet_blocks.py.
    """
    _, *modules, weight = path
    match modules:
        case ["head"]:
            layer = "classifier"
        case [_, end, kind]:
            ends = {"stem/conv": "conv_stem", "stem/norm": "bn1", "top/conv": "conv_head"}
            layer = ends.get(f"{end}/{kind}", "bn2")
        case [_, *_, part, kind]:
            number, block, stage = _place(modules, variant)
            parts = block_parts(stage)
            if kind == "norm":
                # Numbered in the order of the convolutions, without squeeze-excite.
                inner = f"bn{[p for p in parts if p != 'se'].index(part) + 1}"
            elif part == "se":
                inner = f"se.conv_{kind}"
            else:
                inner = _timm_convolution(stage, part)
            layer = f"blocks.{number}.{block}.{inner}"
        case _:
            raise KeyError("/".join(path))
    return f"{layer}.{_torch_weight(weight)}"


def torchvision_name(path: Path, variant: Variant) -> str:
    """Returns torchvision's name of a variable, such as "features.2.0.block.0.1.running_mean".

    Source: torchvision/models/efficientnet.py.
    """
    _, *modules, weight = path
    match modules:
        case ["head"]:
            layer = "classifier.1"
        case [_, end, kind]:
            number = 0 if end == "stem" else len(variant.stages) + 1
            layer = f"features.{number}.{int(kind == 'norm')}"
        case [_, *_, part, kind]:
            number, block, stage = _place(modules, variant)
            inner = {"conv": "0", "norm": "1", "reduce": "fc1", "expand": "fc2"}[kind]
            layer = f"features.{number + 1}.{block}.block.{block_parts(stage).index(part)}.{inner}"
        case _:
            raise KeyError("/".join(path))
    return f"{layer}.{_torch_weight(weight)}"


def lukemelas_name(path: Path, variant: Variant) -> str:
    """Returns EfficientNet-PyTorch's name of a variable, such as "_blocks.1._bn0.running_mean".

    Sources: the packages efficientnet-pytorch and efficientnet-lite-pytorch.
    """
    _, *modules, weight = path
    match modules:
        case ["head"]:
            layer = "_fc"
        case [_, end, kind]:
            ends = {"stem/conv": "_conv_stem", "stem/norm": "_bn0", "top/conv": "_conv_head"}
            layer = ends.get(f"{end}/{kind}", "_bn1")
        case [_, *_, part, kind]:
            number, block, _ = _place(modules, variant)
            before = sum(stage.blocks for stage in scaled_stages(variant)[:number])
            norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
            convolution = f"_se_{kind}" if part == "se" else f"_{part}_conv"
            layer = f"_blocks.{before + block}.{norms[part] if kind == 'norm' else convolution}"
        case _:
            raise KeyError("/".join(path))
    return f"{layer}.{_torch_weight(weight)}"


def _place(modules: list[str], variant: Variant) -> tuple[int, int, Stage]:
    """Returns the index of the stage, the index of the block in it, and the stage."""
    stage = int(modules[1].removeprefix("stage")) - 1
    block = int(modules[2].removeprefix("block")) - 1
    return stage, block, scaled_stages(variant)[stage]


def block_parts(stage: Stage) -> list[str]:
    """Returns the names of the parts of a block in their order, such as "expand" and "project"."""
    expand = ["expand"] if stage.expansion != 1 else []
    squeeze = ["se"] if stage.squeeze else []
    return [*expand, *([] if stage.fused else ["depthwise"]), *squeeze, "project"]


def _timm_convolution(stage: Stage, part: str) -> str:
    names = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
    if stage.expansion == 1:
        names["project"] = "conv" if stage.fused else "conv_pw"
    elif stage.fused:
        names["expand"] = "conv_exp"
    return names[part]


def _torch_weight(weight: str) -> str:
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    return names.get(weight, weight)


def _keras_axes(path: Path) -> Shape | None:
    # A depthwise kernel is [k, k, channel, 1] in Keras and [k, k, 1, channel] in Flax.
    return (0, 1, 3, 2) if path[-3:] == ("depthwise", "conv", "kernel") else None


def _torch_axes(path: Path) -> Shape | None:
    if path[-1] != "kernel":
        return None
    return (1, 0) if path == HEAD else (2, 3, 1, 0)  # OIHW -> HWIO


KERAS = Layout(
    title="Keras",
    code_base="keras",
    name=keras_name,
    axes=_keras_axes,
    extra=("normalization/mean", "normalization/variance"),
    ignored=r"normalization/count|.*/seed_generator/.*",
)
_TORCH = {"axes": _torch_axes, "extra": (), "ignored": r".*\.num_batches_tracked"}
TIMM = Layout("timm", None, timm_name, **_TORCH)
TORCHVISION = Layout("torchvision", "torchvision", torchvision_name, **_TORCH)
LUKEMELAS = Layout("EfficientNet-PyTorch", "lukemelas", lukemelas_name, **_TORCH, advprop="^adv-")
LAYOUTS = (KERAS, TIMM, TORCHVISION, LUKEMELAS)
