"""Pretrained weights: reads them by name or path, and merges them into another model.

Reading is strict: every tensor of a file must be used or be known not to be a weight, and every
variable of the model must come from the file.  An error lists all differences by name and shape.
"""

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
from mlcls_jax.models.weights.aliases import is_name, resolve
from mlcls_jax.models.weights.convert import (
    adapt_stem,
    find_layout,
    infer_variant,
    stem_channels,
    to_variables,
    variable_shapes,
    with_head,
    with_stem,
)
from mlcls_jax.models.weights.download import local_file
from mlcls_jax.models.weights.formats import find_file, read_tensors
from mlcls_jax.models.weights.hub import hub_folder, is_hub
from mlcls_jax.models.weights.layouts import HEAD, LAYOUTS, STEM, Layout, Shape
from mlcls_jax.models.weights.layouts import Path as Names
from mlcls_jax.models.weights.provenance import find_pretrained_config, read_classes

MAX_LISTED = 20  # differences in one error


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model with the head, the convention and the normalisation of its weight file.

    `model.apply(variables, (uint8 - normalization.mean) / normalization.std, train=False)` returns
    the logits of the original model, or the pooled features if the file has no head.

    Attributes:
        model: network with the file's number of classes and convention.
        variables: {params, batch_stats}, nested dictionaries of float32 NumPy arrays.
        normalization: image normalisation that the weights expect.
        classes: names of the head's outputs, from a config.json next to the file; None if they are
            not known.
    """

    model: EfficientNet
    variables: dict
    normalization: Normalization
    classes: tuple[str, ...] | None = None

    @property
    def variant(self) -> str:
        """Variant of the model, a key of VARIANTS."""
        return self.model.variant

    @property
    def num_classes(self) -> int:
        """Number of outputs of the file's head; 0 if it has none."""
        return self.model.num_classes

    @property
    def pretrained_config(self) -> PretrainedConfig:
        """Convention (padding, epsilon, momentum) and normalisation of the weights.

        They must be stored together with the variables, whose shapes do not show them.
        """
        return PretrainedConfig(self.model.convention, self.normalization)


def known_pretrained_config(
    source: str | Path, variant: str, channels: int = 3
) -> PretrainedConfig | None:
    """Returns the pretrained config of weights in the catalog without reading their file.

    For a path or a repository of the Hub, whose files tell it, it is None.

    Args:
        source: a name or a path, as in `load_pretrained`.
        variant: a key of VARIANTS.
        channels: of the images.

    Raises:
        ValueError: the name is unknown, or its weights are of another variant.
    """
    if not is_name(str(source)) or is_hub(str(source)):
        return None
    entry = resolve(str(source), variant)
    return PretrainedConfig(entry.convention, entry.normalization).for_channels(channels)


def load_pretrained(
    source: str | Path, variant: str | None = None, shapes: Mapping[Names, Shape] | None = None
) -> Pretrained:
    """Reads pretrained EfficientNet weights.

    Args:
        source: a name in the catalog (see aliases.py: "imagenet", "noisy-student", "advprop",
            "timm:<model.tag>", "timm:<model.tag>@<revision>", "keras:<name>"); a repository of the
            Hugging Face Hub, such as "hf-hub:<user/name>" or "hf-hub:<user/name>@<revision>"; or
            the path of a file or of a folder with one: Keras `.h5`, `.safetensors` or PyTorch
            `.pth`, in the layout of Keras, timm, torchvision or EfficientNet-PyTorch.  Its format,
            layout and convention are determined from the file, its name and a config.json next to
            it.
        variant: a key of VARIANTS; an alias requires it, otherwise it is determined from the file.
        shapes: shapes of the variables of a model of `variant` with any head, by path; without
            them, the network is traced to get them.  If its images have other channels than the
            RGB of the file, the stem and the normalisation are adapted.

    Returns:
        The model with the file's own head, its variables and its normalisation.

    Raises:
        ValueError: the variant or name is unknown; the weights cannot be downloaded; or the file
            cannot be read, holds another variant, contradicts its name or config.json, or differs
            from its variant in any tensor (all differences are listed).
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    name = str(source)
    entry = resolve(name, variant) if is_name(name) and not is_hub(name) else None
    folder = hub_folder(name)[0] if is_hub(name) else Path(source).expanduser()
    path = local_file(entry) if entry else find_file(folder)
    tensors = read_tensors(path)
    layout = _layout_of(path, tensors)
    variant = _variant_of(path, tensors, layout, entry.variant if entry else variant)
    num_classes = _num_classes(tensors, layout, variant)
    model = EfficientNet(variant=variant, num_classes=num_classes)
    stored = stem_channels(tensors, layout, variant)
    channels = stored if shapes is None else shapes[STEM][2]
    if stored not in (3, channels):
        raise ValueError(
            f"{path} is for images with {stored} channels, but model.in_channels is {channels}; "
            f"set model.in_channels={stored}, or choose other weights"
        )
    shapes = variable_shapes(model) if shapes is None else with_head(shapes, num_classes)
    variables, differences = to_variables(tensors, with_stem(shapes, stored), variant, layout)
    if differences:
        raise ValueError(
            f"{path} does not fit EfficientNet-{variant}; choose a file of that variant: "
            + _listed(differences)
        )
    stem = variables["params"]["backbone"]["stem"]["conv"]
    stem["kernel"] = adapt_stem(stem["kernel"], channels)
    if entry:  # its head has ImageNet's classes, whose names are not part of this package
        pretrained_config, classes = PretrainedConfig(entry.convention, entry.normalization), None
    else:
        pretrained_config = find_pretrained_config(path, layout, variant, tensors)
        classes = read_classes(path, num_classes)
    return Pretrained(
        model.clone(convention=pretrained_config.convention),
        variables,
        pretrained_config.normalization.for_channels(channels),
        classes,
    )


def merge(pretrained: Mapping[str, Any], target: Mapping[str, Any]) -> tuple[dict, list[str]]:
    """Copies pretrained values into the variables of a model, whose head may differ.

    Args:
        pretrained: {params, batch_stats}, nested.
        target: freshly initialised variables of a model of the same variant.

    Returns:
        Variables with the structure and dtypes of the target and the pretrained values; and the
        paths of the head that keep the target's values ("head/bias", "head/kernel").  The target
        keeps its own head if the shapes differ or either side has no head.

    Raises:
        ValueError: a variable outside the head is missing, unexpected or of another shape; all of
            them are listed.
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
            "the pretrained weights do not fit the model; choose weights of its variant: "
            + _listed(lines)
        )
    merged = dict(fresh)
    for path, value in fresh.items():
        if not (new_head and path[1] == "head"):
            merged[path] = np.asarray(source[path], dtype=value.dtype)
    head = sorted(path for path in source.keys() | fresh.keys() if path[1] == "head")
    return unflatten_dict(merged), ["/".join(path[1:]) for path in head if new_head]


def with_classes(pretrained: Pretrained, classes: tuple[str, ...]) -> Pretrained:
    """Reorders the head's outputs to `classes`, or removes the head if its classes differ.

    If the names of the pretrained classes are not known, the head stays as it is, because only the
    number of classes can be compared.

    Args:
        pretrained: the weights of a file.
        classes: names of the classes of the new model.
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
    hidden = len(differences) - MAX_LISTED
    return "; ".join(differences[:MAX_LISTED]) + (f"; and {hidden} more" if hidden > 0 else "")


def _flat(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    return dict(flatten_dict(dict(variables)))


def _difference(path: tuple[str, ...], source: Mapping, fresh: Mapping) -> str:
    name = "/".join(path)
    if path not in source:
        return f"missing {name} {list(fresh[path].shape)}"
    if path not in fresh:
        return f"unexpected {name} {list(source[path].shape)}"
    return f"{name} is {list(source[path].shape)}, expected {list(fresh[path].shape)}"


def _layout_of(path: Path, tensors: Mapping[str, np.ndarray]) -> Layout:
    layout = find_layout(tensors.keys())
    if layout is None:
        titles = ", ".join(layout.title for layout in LAYOUTS)
        examples = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise ValueError(
            f"{path} does not hold an EfficientNet in the layout of {titles}: it has neither stem "
            f"nor top (it holds {examples}); use a file with only the weights of the model"
        )
    return layout


def _variant_of(
    path: Path, tensors: Mapping[str, np.ndarray], layout: Layout, variant: str | None
) -> str:
    """Returns the requested variant or the one of the file, which must be the same."""
    found = infer_variant(tensors, layout)
    if found is None and variant is None:
        raise ValueError(
            f"{path} does not have the blocks of any of {', '.join(VARIANTS)}; specify the "
            "expected variant to see the differences"
        )
    if found is not None and variant is not None and found != variant:
        raise ValueError(
            f"{path} holds the weights of {found}, not of {variant}; choose other weights or "
            "another variant"
        )
    return found or str(variant)


def _num_classes(tensors: Mapping[str, np.ndarray], layout: Layout, variant: str) -> int:
    """Returns the width of the head in the file; 0 without a head."""
    kernel = tensors.get(layout.name(HEAD, VARIANTS[variant]))
    axis = (layout.axes(HEAD) or (0, 1))[1]
    return kernel.shape[axis] if kernel is not None and kernel.ndim == 2 else 0
