"""Pretrained weights: from a name or a file to a model with variables, and into another model.

Reading is strict: every tensor of a file is used or is a known non-weight, and every variable of
the model comes from the file.  All differences are told at once, by name and shape.

python -m mlcls_jax.models.pretrained --list    prints the names of the weights on the web
"""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mlcls_jax.models.conventions import Normalization, PretrainedConfig
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.aliases import format_table, is_name, resolve
from mlcls_jax.models.weights.convert import (
    find_layout,
    infer_variant,
    to_variables,
    variable_shapes,
    with_head,
)
from mlcls_jax.models.weights.download import local_file
from mlcls_jax.models.weights.formats import find_file, read_tensors
from mlcls_jax.models.weights.layouts import HEAD, LAYOUTS, Layout, Shape
from mlcls_jax.models.weights.layouts import Path as Names
from mlcls_jax.models.weights.provenance import find_pretrained_config, read_classes

LISTED = 20  # differences in an error


@dataclass(frozen=True)
class Pretrained:
    """A model as its weight file has it.

    `model.apply(variables, (uint8 - normalization.mean) / normalization.std, train=False)` gives
    the file's own logits, or the pooled features if the file has no head.

    Attributes:
        model: with the file's own number of classes, and its lineage.
        variables: {params, batch_stats}, nested dictionaries of float32 NumPy arrays.
        normalization: that belongs to the weights.
        classes: names of the head's outputs, from a config.json beside the file; None: not known.
    """

    model: EfficientNet
    variables: dict
    normalization: Normalization
    classes: tuple[str, ...] | None = None

    @property
    def variant(self) -> str:
        """A key of VARIANTS."""
        return self.model.variant

    @property
    def num_classes(self) -> int:
        """Of the file's head; 0 if it has none."""
        return self.model.num_classes

    @property
    def pretrained_config(self) -> PretrainedConfig:
        """Lineage and normalisation: what has to be kept beside the variables."""
        return PretrainedConfig(self.model.convention, self.normalization)


def known_pretrained_config(source: str | Path, variant: str) -> PretrainedConfig | None:
    """The origin of weights that have a name, without their file; None for a path.

    Raises:
        ValueError: an unknown name, or none of this variant.
    """
    if not is_name(str(source)):
        return None
    known = resolve(str(source), variant)
    return PretrainedConfig(known.convention, known.normalization)


def load_pretrained(
    source: str | Path, variant: str | None = None, shapes: Mapping[Names, Shape] | None = None
) -> Pretrained:
    """Reads pretrained EfficientNet weights.

    Args:
        source: a name of a file on the web (models/names.py: "imagenet", "noisy-student",
            "advprop", "timm:<model.tag>", "keras:<name>"), or the path of a file or of a folder
            with one: Keras `.h5`, `.safetensors` or PyTorch `.pth`, in the layout of Keras, timm,
            torchvision or EfficientNet-PyTorch.  Its kind, layout and lineage are found in the
            file, in its name and in a config.json beside it.
        variant: a key of VARIANTS; needed for the short names, otherwise found in the file.
        shapes: of the variables of a model of `variant`, whatever its head, by path; without them,
            the network is traced for them.

    Returns:
        The model with the file's own head, its variables and its normalisation.

    Raises:
        ValueError: an unknown variant or name, weights that can't be got, a file that can't be
            read, holds another variant, contradicts what is said of it, or differs from its
            variant in any tensor (they are listed).
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS)}")
    known = resolve(str(source), variant) if is_name(str(source)) else None
    path = local_file(known) if known else find_file(Path(source).expanduser())
    tensors = read_tensors(path)
    layout = _layout_of(path, tensors)
    variant = _variant_of(path, tensors, layout, known.variant if known else variant)
    num_classes = _num_classes(tensors, layout, variant)
    model = EfficientNet(variant=variant, num_classes=num_classes)
    shapes = variable_shapes(model) if shapes is None else with_head(shapes, num_classes)
    variables, differences = to_variables(tensors, shapes, variant, layout)
    if differences:
        raise ValueError(
            f"{path} does not fit EfficientNet-{variant}, give a file of that variant: "
            + _listed(differences)
        )
    if known:  # its head is ImageNet's, whose classes nobody here has
        pretrained_config, classes = PretrainedConfig(known.convention, known.normalization), None
    else:
        pretrained_config = find_pretrained_config(path, layout, variant, tensors)
        classes = read_classes(path, num_classes)
    return Pretrained(
        model.clone(convention=pretrained_config.convention),
        variables,
        pretrained_config.normalization,
        classes,
    )


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
            + _listed(lines)
        )
    merged = dict(fresh)
    for path, value in fresh.items():
        if not (new_head and path[1] == "head"):
            merged[path] = np.asarray(source[path], dtype=value.dtype)
    head = sorted(path for path in source.keys() | fresh.keys() if path[1] == "head")
    return unflatten_dict(merged), ["/".join(path[1:]) for path in head if new_head]


def with_classes(pretrained: Pretrained, classes: tuple[str, ...]) -> Pretrained:
    """The same with the head's outputs in the order of `classes`; without a head, if it has others.

    A file that does not say its classes keeps its head: only their number can be compared.
    """
    if pretrained.classes is None or "head" not in pretrained.variables["params"]:
        return pretrained
    params = dict(pretrained.variables["params"])
    head = params.pop("head")
    if set(classes) == set(pretrained.classes):
        order = [pretrained.classes.index(name) for name in classes]
        params["head"] = {name: value[..., order] for name, value in head.items()}
    return dataclasses.replace(
        pretrained, variables=pretrained.variables | {"params": params}, classes=classes
    )


def _listed(differences: list[str]) -> str:
    more = len(differences) - LISTED
    return "; ".join(differences[:LISTED]) + (f"; and {more} more" if more > 0 else "")


def _flat(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    return dict(flatten_dict(dict(variables)))


def _difference(path: tuple[str, ...], source: Mapping, fresh: Mapping) -> str:
    name = "/".join(path)
    if path not in source:
        return f"missing {name} {list(fresh[path].shape)}"
    if path not in fresh:
        return f"unexpected {name} {list(source[path].shape)}"
    return f"{name} is {list(source[path].shape)} where {list(fresh[path].shape)} is due"


def _layout_of(path: Path, tensors: Mapping[str, np.ndarray]) -> Layout:
    layout = find_layout(tensors.keys())
    if layout is None:
        titles = ", ".join(layout.title for layout in LAYOUTS)
        some = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise ValueError(
            f"{path} holds no EfficientNet that {titles} would write: neither stem nor top is "
            f"there (it holds {some}); give the weights of the model alone"
        )
    return layout


def _variant_of(
    path: Path, tensors: Mapping[str, np.ndarray], layout: Layout, variant: str | None
) -> str:
    """The variant that was asked for or that the file holds; they must agree."""
    found = infer_variant(tensors, layout)
    if found is None and variant is None:
        raise ValueError(
            f"{path} holds the blocks of none of {', '.join(VARIANTS)}; say which variant it "
            "should be to see the differences"
        )
    if found is not None and variant is not None and found != variant:
        raise ValueError(f"{path} holds the weights of {found}, not of {variant}; change either")
    return found or str(variant)


def _num_classes(tensors: Mapping[str, np.ndarray], layout: Layout, variant: str) -> int:
    """Width of the head in the file; 0 without one."""
    kernel = tensors.get(layout.name(HEAD, VARIANTS[variant]))
    axis = (layout.axes(HEAD) or (0, 1))[1]
    return kernel.shape[axis] if kernel is not None and kernel.ndim == 2 else 0


def main() -> None:
    """Prints the table of names."""
    parser = argparse.ArgumentParser(
        prog="python -m mlcls_jax.models.pretrained",
        description="The pretrained weights that model.weights can name.",
    )
    parser.add_argument("--list", action="store_true", required=True, help="print the table")
    parser.parse_args()
    print(format_table())


if __name__ == "__main__":
    main()
