"""Recipes: fields chosen by measurement, and a plan for a time limit.

A recipe is a table of fields.  A field is filled in only where the config has its default, so other
values of a config file or the command line are kept.  docs/results.md has the measurements.
"""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from mlcls_jax.config.durations import duration_in_steps
from mlcls_jax.config.schema import Config, Data, Phase
from mlcls_jax.config.serialization import flatten_fields
from mlcls_jax.models.variants import VARIANTS, scaled_stages

OPERATIONS, MAGNITUDE = 2, 5.0  # of RandAugment
OFF = {"augment.rand_augment": 0}  # what a recipe sets without an effect
BEST, BEST_FOLDS = "best", 5
UPPER_STAGES = 2  # stages that "fast" fine-tunes
MIN_EPOCHS = 2  # of fine-tuning that --minutes plans before it makes the images smaller
SIZE_STEP, MIN_SIZE = 32, 128  # pixels
UPPER, DURATION, SIZE = "phases[1].groups[1].pattern", "phases[1].duration", "model.image_size"

Node = TypeVar("Node")


def recipe_fields(recipe: str, variant: str, *, on_images: bool) -> dict[str, Any]:
    """Returns the fields that a recipe sets, {path: value}.

    Args:
        recipe: a value of the field recipe.
        variant: name of the network.
        on_images: whether a phase trains on images, so that augmentation has an effect.

    >>> recipe_fields("auto", "b0", on_images=True)
    {'augment.rand_augment': 2, 'augment.magnitude': 5.0}
    """
    if recipe == "none":
        return {}
    fields: dict[str, Any] = dict(OFF)
    if on_images:
        fields |= {"augment.rand_augment": OPERATIONS, "augment.magnitude": MAGNITUDE}
    if recipe == "fast":
        stages = len(scaled_stages(VARIANTS[variant]))
        upper = [f"stage{number}" for number in range(stages - UPPER_STAGES + 1, stages + 1)]
        fields |= {UPPER: f"backbone/({'|'.join([*upper, 'top'])})/.*"}
    return fields


def with_recipe(config: Config, stored: Config | None = None) -> tuple[Config, dict[str, Any]]:
    """Returns the config with the fields of its recipe, and those that were filled in.

    Args:
        config: it is not changed.
        stored: the config of the run that continues, whose fields are taken instead, because it may
            have started with another version; None for a new run.
    """
    fields = recipe_fields(
        config.recipe,
        config.model.variant,
        on_images=any(_lasts(phase) and not phase.cached_views for phase in config.phases),
    )
    if config.augment.rand_augment is not None:
        fields.pop("augment.magnitude", None)  # it belongs to the operations
    given = flatten_fields(dataclasses.asdict(config))
    if stored:
        run = flatten_fields(dataclasses.asdict(stored))
        fields = {path: run.get(path, given.get(path)) for path in fields}
    default = flatten_fields(dataclasses.asdict(Config()))
    filled = {path: value for path, value in fields.items() if given.get(path) == default[path]}
    return with_fields(config, filled), filled


def data_of_recipe(recipe: str, data: Data) -> Data:
    """Returns the section data with the fields that the recipe `best` sets in it.

    The network trains on all images, with thresholds and a temperature of five folds, or of as many
    as data.folds says.  A run of one fold, data.fold, has no such training on all images.

    Args:
        recipe: a value of the field recipe; others set nothing.
        data: it is not changed.

    >>> data = data_of_recipe("best", Data())
    >>> data.folds, data.refit
    (5, True)
    """
    if recipe != BEST:
        return data
    folds, refit = data.folds or BEST_FOLDS, data.refit or data.fold < 0
    return dataclasses.replace(data, folds=folds, refit=refit)


def with_stored_depth(data: Data, stored: Data | None) -> Data:
    """Returns the section data with the bit depth of the run that continues, if it is open.

    Args:
        data: it is not changed.
        stored: the section of that run; None for a new run.
    """
    if stored is None or data.bit_depth != "auto":
        return data
    return dataclasses.replace(data, bit_depth=stored.bit_depth)


def _lasts(phase: Phase) -> bool:
    return duration_in_steps(phase.duration, 1, 1) > 0


def fit_minutes(
    seconds: float, epoch_seconds: float, epochs: float, image_size: int
) -> dict[str, Any] | None:
    """Returns the fields that fit fine-tuning into a time limit, {path: value}.

    It keeps what the config says if that fits, or takes as many epochs as fit.  If fewer than
    MIN_EPOCHS fit, the images become smaller.

    Args:
        seconds: time for fine-tuning.
        epoch_seconds: measured time of an epoch with its evaluations.
        epochs: length of fine-tuning in the config.
        image_size: side of the images of that measurement, in pixels.

    Returns:
        The fields, or None if the time does not suffice at MIN_SIZE either.

    >>> fit_minutes(seconds=75, epoch_seconds=10, epochs=12, image_size=224)
    {'phases[1].duration': '7 epochs'}
    """
    if epochs * epoch_seconds <= seconds:
        return {}
    if seconds >= MIN_EPOCHS * epoch_seconds:
        return {DURATION: f"{math.floor(seconds / epoch_seconds)} epochs"}
    least = min(MIN_EPOCHS, epochs)
    share = max(seconds, 0) / (least * epoch_seconds)  # the time is proportional to the pixels
    size = math.floor(image_size * math.sqrt(share) / SIZE_STEP) * SIZE_STEP
    return {DURATION: f"{least:g} epochs", SIZE: size} if size >= MIN_SIZE else None


def with_fields(config: Node, fields: Mapping[str, Any]) -> Node:
    """Returns a copy of a config, or of a section, with some fields set.

    Args:
        config: it is not changed.
        fields: {path: value}, such as {"phases[1].groups[0].learning_rate": 1e-3}.

    >>> with_fields(Config(), {"phases[1].duration": "5 epochs"}).phases[1].duration
    '5 epochs'
    """
    result = copy.deepcopy(config)
    for path, value in fields.items():
        node: Any = result
        *parents, last = path.replace("[", ".").replace("]", "").split(".")
        for name in parents:
            node = node[int(name)] if name.isdigit() else getattr(node, name)
        setattr(node, last, value)
    return result
