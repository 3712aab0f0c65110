"""Where the weights of a local file come from, which its tensors alone do not tell.

Asked in this order: the config.json beside the file (ours, or timm's as on Hugging Face), the
file's name, the layout of its tensors.  Only timm's layout needs one of the first two: its models
tf_efficientnet_b0 and efficientnet_b0 have the same tensors, but pad differently and add another
epsilon.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dacite

from mlcls_jax.models.layouts import KERAS, LUKEMELAS, TIMM, TORCHVISION, Layout
from mlcls_jax.models.lineages import HALF, Origin, from_unit, origin_of
from mlcls_jax.models.sources import SOURCES
from mlcls_jax.models.weight_files import SIDECAR, read_sidecar

CAST = dacite.Config(strict=True, cast=[tuple])  # JSON has lists
OWN = "mlcls_jax"  # our part of a config.json
ARCHITECTURE = re.compile(r"(tf_)?efficientnet(v2)?_(b\d|lite\d|[sml])(?![a-z0-9])")
ADVPROP = re.compile(r"[._]ap(_in1k)?([-.]|$)|^adv-")
CODE_BASES = {KERAS.title: "keras", TORCHVISION.title: "torchvision", LUKEMELAS.title: "lukemelas"}


def find_origin(path: Path, layout: Layout, variant: str) -> Origin:
    """The lineage and the normalisation of a local weight file.

    Args:
        path: of the file.
        layout: of its tensors.
        variant: that its tensors are of.

    Raises:
        ValueError: config.json or the file's name say another variant, or what cannot be; or
            nothing tells which of timm's models it is.
    """
    sidecar = read_sidecar(path)
    own = sidecar.get(OWN)
    if isinstance(own, dict) and own.get("file") == path.name:
        _check_variant(path, SIDECAR, own.get("variant"), variant)
        try:
            return from_json(own.get("origin", {}))
        except ValueError as error:
            raise ValueError(f"{path.parent / SIDECAR}: {error}; export again") from error
    if layout is TIMM:
        return _timm_origin(path, sidecar, variant)
    origin = origin_of(CODE_BASES[layout.title], variant)
    if origin is None:
        raise ValueError(
            f"{path} holds {variant} as {layout.title} names its tensors, but {layout.title} has "
            "no such model; say where it is from in a timm file's name or config.json"
        )
    return _advprop(origin) if ADVPROP.search(path.stem) and layout is LUKEMELAS else origin


def to_json(origin: Origin) -> dict[str, Any]:
    """An origin as JSON, exact, where timm's units of 0 to 1 would round."""
    return dataclasses.asdict(origin)


def from_json(value: Mapping[str, Any]) -> Origin:
    """The inverse; ValueError names a missing or a superfluous field."""
    try:
        return dacite.from_dict(Origin, value, CAST)
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        raise ValueError(f"the origin of the weights is not as it was written: {error}") from error


def _timm_origin(path: Path, sidecar: Mapping[str, Any], variant: str) -> Origin:
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
    origin = origin_of("timm tf" if tf else "timm", variant)
    if origin is None:
        raise ValueError(f"{path}: timm has no model {architecture[0]}; mend {by}")
    own_name = ARCHITECTURE.match(path.stem)
    if own_name and own_name[0] != architecture[0]:
        raise ValueError(
            f"{path} is named as {own_name[0]}, but {SIDECAR} beside it says {architecture[0]}; "
            "mend either"
        )
    if "architecture" in sidecar:
        return _configured(path, sidecar, origin)
    if row := SOURCES.get(f"timm:{path.stem}"):
        return Origin(row.lineage, row.normalization)
    return _advprop(origin) if ADVPROP.search(path.stem) else origin


def _configured(path: Path, sidecar: Mapping[str, Any], origin: Origin) -> Origin:
    """The origin with what timm's config.json says otherwise."""
    pretrained, arguments = sidecar.get("pretrained_cfg", {}), sidecar.get("model_args", {})
    try:
        lineage = dataclasses.replace(
            origin.lineage,
            epsilon=float(arguments.get("bn_eps", origin.lineage.epsilon)),
            decay=1 - float(arguments.get("bn_momentum", 1 - origin.lineage.decay)),
        )
        if "mean" in pretrained:
            return Origin(lineage, from_unit(pretrained["mean"], pretrained["std"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.parent / SIDECAR}: its mean, std or model_args are not as timm writes them "
            f"({error})"
        ) from error
    return Origin(lineage, origin.normalization)


def _advprop(origin: Origin) -> Origin:
    return dataclasses.replace(origin, normalization=HALF)


def _check_variant(path: Path, by: str, said: Any, variant: str) -> None:
    if said != variant:
        raise ValueError(
            f"{path} holds the weights of {variant}, but {by} says {said}; mend either"
        )
