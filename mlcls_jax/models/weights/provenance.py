"""Where the weights of a local file come from, which its tensors alone do not tell.

Asked in this order: the config.json beside the file (ours, or timm's as on Hugging Face), the
file's name, the layout of its tensors.  Only timm's layout needs one of the first two: its models
tf_efficientnet_b0 and efficientnet_b0 have the same tensors, but pad differently and add another
epsilon; and of one model there are weights for differently normalised images.
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

CAST = dacite.Config(strict=True, cast=[tuple])  # JSON has lists
OWN = "mlcls_jax"  # our part of a config.json
ARCHITECTURE = re.compile(r"(tf_)?efficientnet(v2)?_(b\d|lite\d|[sml])(?![a-z0-9])")
OLD_TAG = re.compile(r"_(ns|ap|aa|ra)(?![a-z0-9])")  # of timm's files before it had tags
TAGS = {"ns": "ns_jft_in1k", "ap": "ap_in1k", "aa": "aa_in1k", "ra": "ra_in1k"}
AS_OURS = {"in_chans": 3, "global_pool": "avg"}  # arguments that timm writes down always
FREE = {"num_classes", "drop_rate", "drop_path_rate", "bn_eps", "bn_momentum"}


def find_pretrained_config(
    path: Path, layout: Layout, variant: str, tensors: Mapping[str, np.ndarray]
) -> PretrainedConfig:
    """The lineage and the normalisation of a local weight file.

    Args:
        path: of the file.
        layout: of its tensors.
        variant: that its tensors are of.
        tensors: of the file; those of Keras may hold the normalisation.

    Raises:
        ValueError: config.json or the file's name say another variant, or what cannot be; or
            nothing tells which of timm's models it is, or how its images are normalised.
    """
    sidecar = read_sidecar(path)
    if own := _own_part(sidecar, path):
        _check_variant(path, SIDECAR, own.get("variant"), variant)
        try:
            return from_json(own.get("pretrained_config", {}))
        except ValueError as error:
            raise ValueError(f"{path.parent / SIDECAR}: {error}; export again") from error
    if layout.code_base is None:
        return _timm_origin(path, sidecar, variant)
    pretrained_config = pretrained_config_of(layout.code_base, variant)
    if pretrained_config is None:
        raise ValueError(
            f"{path} holds {variant} as {layout.title} names its tensors, but {layout.title} has "
            "no such model; say where it is from in a timm file's name or config.json"
        )
    if layout.extra and layout.extra.keys() <= tensors.keys():
        mean, variance = (tensors[name] for name in layout.extra)
        return PretrainedConfig(
            pretrained_config.convention, stored_normalization(mean, variance, path)
        )
    if re.search(layout.advprop, path.stem):
        return PretrainedConfig(pretrained_config.convention, HALF)
    return pretrained_config


def read_classes(path: Path, num_classes: int) -> tuple[str, ...] | None:
    """Names of the head's outputs, from a config.json of ours or timm's; None if it has none.

    Raises:
        ValueError: there are more or fewer names than outputs.
    """
    sidecar = read_sidecar(path)
    names = _own_part(sidecar, path).get("classes", sidecar.get("label_names"))
    if not isinstance(names, list) or not num_classes:
        return None
    if len(names) != num_classes:
        raise ValueError(
            f"{path.parent / SIDECAR} names {len(names)} classes, but the head in {path.name} has "
            f"{num_classes}; mend either"
        )
    return tuple(map(str, names))


def _own_part(sidecar: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What the export wrote into config.json, where it is about this very file; {} elsewhere."""
    own = sidecar.get(OWN)
    return own if isinstance(own, dict) and own.get("file") == path.name else {}


def to_json(pretrained_config: PretrainedConfig) -> dict[str, Any]:
    """An origin as JSON, exact, where timm's units of 0 to 1 would round."""
    return dataclasses.asdict(pretrained_config)


def from_json(value: Mapping[str, Any]) -> PretrainedConfig:
    """The inverse; ValueError names a missing or a superfluous field."""
    try:
        return dacite.from_dict(PretrainedConfig, value, CAST)
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())  # it quotes values
        raise ValueError(f"the origin of the weights is not as it was written: {reason}") from error


def stored_normalization(mean: np.ndarray, variance: np.ndarray, path: Path) -> Normalization:
    """The normalisation that a Keras EfficientNet does inside, as one mean and one std.

    A Keras model computes (x / 255 - mean) / sqrt(variance) from the weights of its Normalization
    layer.  The files published with keras.applications hold the standard deviations 0.229, 0.224,
    0.225 as that "variance": the networks were trained with (x / 255 - mean) / std, so Keras
    builds `weights="imagenet"` with one more Rescaling by 1 / sqrt(std), which together with
    1 / sqrt("variance") makes 1 / std.  That layer is no part of a file; it is known by the
    values.  Source: the comment in `keras/src/applications/efficientnet.py`, and
    github.com/tensorflow/tensorflow/issues/49930.

    Args:
        mean, variance: float [3], weights of the layer.
        path: of the file, for the message.

    Raises:
        ValueError: a variance that is not positive, or a number that is not finite.
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


def _timm_origin(path: Path, sidecar: Mapping[str, Any], variant: str) -> PretrainedConfig:
    by = SIDECAR if "architecture" in sidecar else "its name"
    name = str(sidecar.get("architecture", path.stem))
    architecture = ARCHITECTURE.match(name)
    if architecture is None:
        raise ValueError(
            f"{path} holds {variant}, but nothing says which of timm's models it is (they differ "
            "in padding and epsilon): name the file like tf_efficientnet_b0.in1k.safetensors or "
            f"efficientnet_b0.ra_in1k.safetensors, or put timm's {SIDECAR} beside it"
        )
    tf, v2, size = architecture.groups()
    _check_variant(path, by, ("v2" if v2 else "") + size, variant)
    pretrained_config = pretrained_config_of("timm tf" if tf else "timm", variant)
    if pretrained_config is None:
        raise ValueError(f"{path}: timm has no model {architecture[0]}; mend {by}")
    own_name = ARCHITECTURE.match(path.stem)
    if own_name and own_name[0] != architecture[0]:
        raise ValueError(
            f"{path} is named as {own_name[0]}, but {SIDECAR} beside it says {architecture[0]}; "
            "mend either"
        )
    named = _named_normalization(
        path.stem if own_name else name, architecture[0], pretrained_config
    )
    configured = _configured(path, sidecar)
    normalization = configured or named
    if normalization is None:
        raise ValueError(
            f"{path}: {architecture[0]} is published for differently normalised images, and the "
            f"name does not say which weights these are; give it one of timm's tags, or put "
            f"timm's {SIDECAR} with mean and std beside it"
        )
    if own_name and configured and named and not _alike(configured, named):
        raise ValueError(
            f"{path}: its name says mean / std {named}, but {SIDECAR} beside it says {configured}; "
            "mend either"
        )
    return PretrainedConfig(_configured_lineage(path, sidecar, pretrained_config), normalization)


def _named_normalization(
    name: str, architecture: str, pretrained_config: PretrainedConfig
) -> Normalization | None:
    """By the tag after the architecture, in timm's or in its former spelling; None: unknown."""

    def plain(text: str) -> str:
        return re.sub(r"[._]", "_", text)

    rows = {
        row.name.removeprefix("timm:"): row.normalization
        for row in CATALOG.values()
        if row.name.startswith(f"timm:{architecture}.")
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
    """What timm's config.json says of the images; None: nothing."""
    pretrained = sidecar.get("pretrained_cfg", sidecar)  # beside the architecture in older ones
    try:
        return from_unit(pretrained["mean"], pretrained["std"]) if "mean" in pretrained else None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path.parent / SIDECAR}: its mean and std are not as timm writes them ({error})"
        ) from error


def _configured_lineage(
    path: Path, sidecar: Mapping[str, Any], pretrained_config: PretrainedConfig
) -> Convention:
    """The lineage with the model's arguments in timm's config.json."""
    arguments = sidecar.get("model_args") or {}
    try:
        unknown = {k for k, v in arguments.items() if k not in FREE and AS_OURS.get(k) != v}
        if unknown:
            names = " ".join(", ".join(sorted(unknown)).split())
            raise ValueError(f"{names} would make another network")
        return dataclasses.replace(
            pretrained_config.convention,
            epsilon=float(arguments.get("bn_eps", pretrained_config.convention.epsilon)),
            decay=1 - float(arguments.get("bn_momentum", 1 - pretrained_config.convention.decay)),
        )
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path.parent / SIDECAR}: its model_args cannot be followed ({error})"
        ) from error


def _alike(a: Normalization, b: Normalization) -> bool:
    return np.allclose([a.mean, a.std], [b.mean, b.std], rtol=1e-4)


def _check_variant(path: Path, by: str, said: Any, variant: str) -> None:
    if said != variant:
        what = " ".join(str(said).split())
        raise ValueError(
            f"{path} holds the weights of {variant}, but {by} says {what}; mend either"
        )
