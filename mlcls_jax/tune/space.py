"""The values that a search chooses from, around those of a config."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (  # pyright: ignore[reportMissingImports]
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

FACTOR = 30.0  # rates are searched from the config's divided by this to the config's times this
HEAD = "model.head"


def space(
    values: Mapping[str, Any], dropout: float, *, finetune: bool, decoder: bool
) -> dict[str, BaseDistribution]:
    """Returns the distribution of each field that is searched.

    Args:
        values: the config by path, from `flatten_fields`.
        dropout: published rate of the network, where the config leaves it open.
        finetune: whether phases without cached features are trained.
        decoder: whether the head may be an ML-Decoder.
    """
    found: dict[str, BaseDistribution] = {
        "loss.name": CategoricalDistribution(("bce", "focal", "asl")),
        "loss.label_smoothing": FloatDistribution(0.0, max(0.1, values["loss.label_smoothing"])),
        "model.dropout": FloatDistribution(0.0, max(0.5, dropout)),
    }
    if decoder:
        found[HEAD] = CategoricalDistribution(("gap", "mldecoder"))
    is_mirrored = values["augment.symmetry"] != "none"
    for path, value in values.items():
        phase = path.split(".")[0]
        if not finetune and not values.get(f"{phase}.cached_views"):
            continue
        if path.endswith(".learning_rate"):
            found[path] = FloatDistribution(value / FACTOR, value * FACTOR, log=True)
        elif path.endswith(".weight_decay"):
            choices = sorted({0.0, 1e-4, 1e-3, 1e-2, 1e-1, value})
            found[path] = CategoricalDistribution(tuple(choices))
        elif path.endswith(".cached_views") and value in (1, 2) and is_mirrored:
            found[path] = CategoricalDistribution((1, 2))
    if finetune:
        found["augment.rand_augment"] = IntDistribution(
            0, max(3, values["augment.rand_augment"] or 0)
        )
        found["augment.mixup"] = CategoricalDistribution(
            tuple(sorted({0.0, 0.2, 0.4, 0.8, float(values["augment.mixup"])}))
        )
    return found


def defaults(values: Mapping[str, Any], dropout: float, fields: Mapping[str, Any]) -> dict:
    """Returns the values of a config for the fields that are searched.

    Args:
        values, dropout: see `space`; a recipe must be filled in.
        fields: paths of the fields.
    """
    present = {path: values[path] for path in fields}
    if "model.dropout" in present and present["model.dropout"] is None:
        present["model.dropout"] = dropout
    return {path: 0 if value is None else value for path, value in present.items()}
