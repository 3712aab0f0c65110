"""Provenance: finds the pretrained config of a local weight file, which its tensors do not show.

The sources are, in this order, the config.json next to the file (ours, or timm's as on Hugging
Face), the name of the file, and the layout of its tensors.  Only timm's layout requires one of the
first two: its models tf_efficientnet_b0 and efficientnet_b0 have the same tensors but different
padding and epsilon, and the weights of one model are published for different normalisations.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dacite
import numpy as np

from mlcls_jax.models.conventions import (
    HALF,
    IMAGENET_STD,
    Convention,
    Normalization,
    PretrainedConfig,
    from_unit,
    pretrained_config_of,
)
from mlcls_jax.models.weights.catalog import CATALOG
from mlcls_jax.models.weights.formats import SIDECAR, read_sidecar
from mlcls_jax.models.weights.layouts import Layout
from mlcls_jax.system.console import one_line

CAST = dacite.Config(strict=True, cast=[tuple])  # JSON has lists instead of tuples
OWN = "mlcls_jax"  # key of our part of a config.json
ARCHITECTURE = re.compile(r"(tf_)?efficientnet(v2)?_(b\d|lite\d|[sml])(?![a-z0-9])")
OLD_TAG = re.compile(r"_(ns|ap|aa|ra)(?![a-z0-9])")  # in timm's file names before it used tags
TAGS = {"ns": "ns_jft_in1k", "ap": "ap_in1k", "aa": "aa_in1k", "ra": "ra_in1k"}
# In timm's model_args: arguments that must have our value, and arguments that may have any value.
REQUIRED_ARGUMENTS = {"global_pool": "avg"}
FREE_ARGUMENTS = {"num_classes", "drop_rate", "drop_path_rate", "bn_eps", "bn_momentum"}
FREE_ARGUMENTS |= {"in_chans"}  # the kernel of the stem shows it


def find_pretrained_config(
    path: Path, layout: Layout, variant: str, tensors: Mapping[str, np.ndarray]
) -> PretrainedConfig:
    """Returns the convention and the normalisation of a local weight file.

    Args:
        path: path of the file.
        layout: layout of its tensors.
        variant: variant of its tensors, a key of VARIANTS.
        tensors: tensors of the file; those of Keras may contain the normalisation.

    Raises:
        ValueError: config.json or the name of the file states another variant or invalid values; or
            nothing shows which of timm's models it is, or how its images are normalised.
    """
    sidecar = read_sidecar(path)
    if own := _own_part(sidecar, path):
        _check_variant(path, SIDECAR, own.get("variant"), variant)
        try:
            return from_json(own.get("pretrained_config", {}))
        except ValueError as error:
            raise ValueError(f"{path.parent / SIDECAR}: {error}; export it again") from error
    if layout.code_base is None:
        return _timm_pretrained_config(path, sidecar, variant)
    pretrained_config = pretrained_config_of(layout.code_base, variant)
    if pretrained_config is None:
        raise ValueError(
            f"{path} holds {variant} in the layout of {layout.title}, but {layout.title} has no "
            "such model; export it to a timm file, with timm's name of the model or a config.json"
        )
    if layout.extra and set(layout.extra) <= tensors.keys():
        mean, variance = (tensors[name] for name in layout.extra)
        return PretrainedConfig(
            pretrained_config.convention, stored_normalization(mean, variance, path)
        )
    if re.search(layout.advprop, path.stem):
        return PretrainedConfig(pretrained_config.convention, HALF)
    return pretrained_config


def read_classes(path: Path, num_classes: int) -> tuple[str, ...] | None:
    """Returns the names of the head's outputs in config.json (ours or timm's); None if absent.

    Args:
        path: path of the weight file.
        num_classes: number of outputs of its head.

    Raises:
        ValueError: the number of names differs from the number of outputs.
    """
    sidecar = read_sidecar(path)
    names = _own_part(sidecar, path).get("classes", sidecar.get("label_names"))
    if not isinstance(names, list) or not num_classes:
        return None
    if len(names) != num_classes:
        raise ValueError(
            f"{path.parent / SIDECAR} names {len(names)} classes, but the head in {path.name} has "
            f"{num_classes}; correct one of the files"
        )
    return tuple(map(str, names))


def _own_part(sidecar: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns what our export wrote into config.json; {} if that is about another file."""
    own = sidecar.get(OWN)
    return own if isinstance(own, dict) and own.get("file") == path.name else {}


def to_json(pretrained_config: PretrainedConfig) -> dict[str, Any]:
    """Converts a pretrained config to JSON values, without rounding (units of 0 to 255)."""
    return dataclasses.asdict(pretrained_config)


def from_json(value: Mapping[str, Any]) -> PretrainedConfig:
    """Converts JSON values back to a pretrained config: the inverse of `to_json`.

    Raises:
        ValueError: a field is missing, unknown or of another type; the message names it.
    """
    try:
        return dacite.from_dict(PretrainedConfig, value, CAST)
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        reason = one_line(error)
        raise ValueError(f"the pretrained config of the weights is invalid: {reason}") from error


def stored_normalization(mean: np.ndarray, variance: np.ndarray, path: Path) -> Normalization:
    """Returns the normalisation that a Keras EfficientNet performs inside the model.

    A Keras model computes (x / 255 - mean) / sqrt(variance) from the weights of its Normalization
    layer.  In the files published with keras.applications, that "variance" holds the standard
    deviations 0.229, 0.224, 0.225.  The networks were trained with (x / 255 - mean) / std, so for
    `weights="imagenet"` Keras adds a Rescaling by 1 / sqrt(std), which together with
    1 / sqrt("variance") gives 1 / std.  A file does not contain this second layer, so it is
    recognised by these values.

    Source: the comment in `keras/src/applications/efficientnet.py`, and
    github.com/tensorflow/tensorflow/issues/49930.

    Args:
        mean, variance: float [channel], weights of the layer, in units of 0 to 1.
        path: path of the file, for the message.

    Raises:
        ValueError: a variance is not positive, or a number is not finite.
    """
    with np.errstate(invalid="ignore"):
        std = np.sqrt(variance.astype(np.float64))
    if variance.shape == (3,) and np.allclose(variance, IMAGENET_STD, rtol=0, atol=1e-4):
        std = variance.astype(np.float64)
    try:
        return from_unit(mean.astype(np.float64), std)
    except ValueError as error:
        raise ValueError(
            f"{path}: the weights of its normalization layer are mean {mean.tolist()} and "
            f"variance {variance.tolist()}: {error}; save the model again"
        ) from error


def _timm_pretrained_config(
    path: Path, sidecar: Mapping[str, Any], variant: str
) -> PretrainedConfig:
    """Returns the pretrained config of a file in timm's layout, from config.json or its name."""
    stated_by = SIDECAR if "architecture" in sidecar else "its name"
    name = str(sidecar.get("architecture", path.stem))
    architecture = ARCHITECTURE.match(name)
    if architecture is None:
        raise ValueError(
            f"{path} holds {variant}, but nothing shows which of timm's models it is (they differ "
            "in padding and epsilon); name the file like tf_efficientnet_b0.in1k.safetensors or "
            f"efficientnet_b0.ra_in1k.safetensors, or put timm's {SIDECAR} next to it"
        )
    tf, v2, size = architecture.groups()
    _check_variant(path, stated_by, ("v2" if v2 else "") + size, variant)
    pretrained_config = pretrained_config_of("timm tf" if tf else "timm", variant)
    if pretrained_config is None:
        raise ValueError(f"{path}: timm has no model {architecture[0]}; correct {stated_by}")
    own_name = ARCHITECTURE.match(path.stem)
    if own_name and own_name[0] != architecture[0]:
        raise ValueError(
            f"{path} is named as {own_name[0]}, but the {SIDECAR} next to it states "
            f"{architecture[0]}; rename the file or correct {SIDECAR}"
        )
    named = _named_normalization(
        path.stem if own_name else name, architecture[0], pretrained_config
    )
    configured = _configured(path, sidecar)
    normalization = configured or named
    if normalization is None:
        raise ValueError(
            f"{path}: {architecture[0]} is published for several normalisations of images, and the "
            "name does not show which weights these are; add one of timm's tags to the name, or "
            f"put timm's {SIDECAR} with mean and std next to the file"
        )
    if own_name and configured and named and not _alike(configured, named):
        raise ValueError(
            f"{path}: its name stands for mean / std {named}, but the {SIDECAR} next to it states "
            f"{configured}; rename the file or correct {SIDECAR}"
        )
    return PretrainedConfig(_configured_convention(path, sidecar, pretrained_config), normalization)


def _named_normalization(
    name: str, architecture: str, pretrained_config: PretrainedConfig
) -> Normalization | None:
    """Returns the normalisation by the tag in a name, in timm's new or old form; None: unknown."""

    def plain(text: str) -> str:
        return re.sub(r"[._]", "_", text)

    rows = {
        entry.name.removeprefix("timm:"): entry.normalization
        for entry in CATALOG.values()
        if entry.name.startswith(f"timm:{architecture}.")
    }
    if old := OLD_TAG.match(name[len(architecture) :]):
        name = f"{architecture}.{TAGS[old[1]]}"
    matches = [row for row in rows if re.match(plain(row) + "(?![a-z0-9])", plain(name))]
    if matches:
        return rows[max(matches, key=len)]
    is_untagged = re.fullmatch(r"(-[0-9a-f]{8})?", name[len(architecture) :])
    if is_untagged or set(rows.values()) <= {pretrained_config.normalization}:
        return pretrained_config.normalization
    return None


def _configured(path: Path, sidecar: Mapping[str, Any]) -> Normalization | None:
    """Returns the normalisation in timm's config.json; None if it states none."""
    pretrained = sidecar.get("pretrained_cfg", sidecar)  # older files have no such level
    try:
        return from_unit(pretrained["mean"], pretrained["std"]) if "mean" in pretrained else None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path.parent / SIDECAR}: its mean and std are not in timm's format ({error}); "
            "correct them"
        ) from error


def _configured_convention(
    path: Path, sidecar: Mapping[str, Any], pretrained_config: PretrainedConfig
) -> Convention:
    """Returns the convention, changed by the model_args in timm's config.json."""
    arguments = sidecar.get("model_args") or {}
    try:
        unsupported = {
            name
            for name, value in arguments.items()
            if name not in FREE_ARGUMENTS and REQUIRED_ARGUMENTS.get(name) != value
        }
        if unsupported:
            names = " ".join(", ".join(sorted(unsupported)).split())
            raise ValueError(f"{names} would change the network")
        return dataclasses.replace(
            pretrained_config.convention,
            epsilon=float(arguments.get("bn_eps", pretrained_config.convention.epsilon)),
            # timm has PyTorch's momentum, which is 1 - decay.
            decay=1 - float(arguments.get("bn_momentum", 1 - pretrained_config.convention.decay)),
        )
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path.parent / SIDECAR}: its model_args are not supported ({error}); choose weights "
            "of an unmodified model"
        ) from error


def _alike(a: Normalization, b: Normalization) -> bool:
    parts = (a.mean, b.mean), (a.std, b.std)
    return all(len(x) == len(y) and np.allclose(x, y, rtol=1e-4) for x, y in parts)


def _check_variant(path: Path, stated_by: str, stated: Any, variant: str) -> None:
    if stated != variant:
        value = " ".join(str(stated).split())
        raise ValueError(
            f"{path} holds the weights of {variant}, but {stated_by} states {value}; correct "
            f"{stated_by} or choose another file"
        )
