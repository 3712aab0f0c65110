"""Rows of ablation.py: each row is the baseline with some fields of the config changed.

The baseline is the default config without its recipe: six epochs of the head alone on cached
features, then twelve epochs of everything.
"""

from dataclasses import dataclass, field
from typing import Any

HEAD, FINETUNE = "phases[0]", "phases[1]"
BASELINE = "baseline"
NO_EPOCHS = "0 steps"
# Durations that are computed from the epochs of the two phases.
ALL_EPOCHS, TWICE = "epochs of both phases", "twice the epochs of fine-tuning"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: name of the row and of its folder.
        group: name that selects several rows together.
        change: {field of the config: value}.
        evaluate: options for evaluating the baseline's runs; a row with them trains nothing.
    """

    name: str
    group: str
    change: dict[str, Any] = field(default_factory=dict)
    evaluate: tuple[str, ...] = ()


# An average over about the last twenty steps: these runs have about a hundred.
_EMA = {f"{FINETUNE}.ema": 0.95}
_CROP = {"augment.train_resize": "random_crop", "augment.min_scale": 0.5}
_LAYERS = {f"{FINETUNE}.layer_decay": 0.75}
_DECODER = {  # at the learning rate of a dense layer, attention would diverge in the first phase
    "model.head": "mldecoder",
    f"{HEAD}.groups[0].learning_rate": 1e-3,
}
ROWS = (
    Row(BASELINE, "baseline"),
    # The loss; the baseline has plain binary cross-entropy.
    Row("pos-weight", "loss", {"loss.pos_weight": "auto"}),
    Row("focal", "loss", {"loss.name": "focal"}),
    Row("asl", "loss", {"loss.name": "asl"}),
    Row("label-smoothing", "loss", {"loss.label_smoothing": 0.1}),
    # How often images with rare classes are shown; pos-weight weights their labels instead.
    Row("oversample-sqrt", "sampling", {"data.oversample": "sqrt"}),
    Row("oversample-balanced", "sampling", {"data.oversample": "balanced"}),
    Row(
        "oversample-pos-weight",
        "sampling",
        {"data.oversample": "sqrt", "loss.pos_weight": "auto"},
    ),
    # What trains when, with the same number of steps.
    Row("frozen", "phases", {f"{HEAD}.duration": ALL_EPOCHS, f"{FINETUNE}.duration": NO_EPOCHS}),
    Row("full", "phases", {f"{HEAD}.duration": NO_EPOCHS, f"{FINETUNE}.duration": ALL_EPOCHS}),
    Row(  # a new head may need a higher rate than one that has trained alone first
        "full-fast-head",
        "phases",
        {
            f"{HEAD}.duration": NO_EPOCHS,
            f"{FINETUNE}.duration": ALL_EPOCHS,
            f"{FINETUNE}.groups[0].learning_rate": 5e-3,
        },
    ),
    Row("ema", "optimizer", _EMA),
    Row("layer-decay", "optimizer", _LAYERS),
    Row("mixup", "augment", {"augment.mixup": 0.2}),  # arXiv:1710.09412: 0.1 to 0.4 on ImageNet
    Row("cutmix", "augment", {"augment.cutmix": 1.0}),  # arXiv:1905.04899
    Row("rand-augment", "augment", {"augment.rand_augment": 2}),  # arXiv:1909.13719
    Row(  # as strong as timm's default --color-jitter
        "colour",
        "augment",
        {"augment.brightness": 0.4, "augment.contrast": 0.4, "augment.saturation": 0.4},
    ),
    Row("random-crop", "augment", {"augment.train_resize": "random_crop"}),
    Row(
        "letterbox",
        "augment",
        {"augment.train_resize": "letterbox", "augment.eval_resize": "letterbox"},
    ),
    Row("tta-h", "evaluate", evaluate=("--tta", "h")),
    Row("tta-crops", "evaluate", evaluate=("--tta", "crops")),
    Row("mldecoder", "head", _DECODER),
    # Candidates for a few hundred images; some change several fields.
    Row("mldecoder-mixup", "candidates", _DECODER | {"augment.mixup": 0.2}),
    Row("head-decay", "candidates", {f"{HEAD}.groups[0].weight_decay": 1.0}),
    Row("twice", "candidates", {f"{FINETUNE}.duration": TWICE}),
    Row("gentle", "candidates", _LAYERS | _EMA | {f"{FINETUNE}.duration": TWICE}),
    Row("gentle-crop", "candidates", _LAYERS | _EMA | _CROP),
    Row(
        "regular",
        "candidates",
        _EMA | {"model.dropout": 0.5, "augment.rand_augment": 2, "augment.magnitude": 5.0},
    ),
    Row("larger", "candidates", _EMA | {"model.image_size": 288}),
    Row("mixed", "candidates", _EMA | _CROP | {"augment.mixup": 0.2, "model.image_size": 256}),
)


def choose(names: str) -> list[Row]:
    """Returns the rows of a comma-separated list of rows and groups, after the baseline.

    Raises:
        ValueError: a name is neither a row nor a group.
    """
    selected = {name for name in names.split(",") if name}
    known = {row.name for row in ROWS} | {row.group for row in ROWS}
    if unknown := sorted(selected - known):
        raise ValueError(
            f"--rows {', '.join(unknown)}: no such row or group; choose from {_listed()}"
        )
    return [row for row in ROWS if selected & {row.name, row.group} or row.name == BASELINE]


def default_rows() -> str:
    """Returns all groups except the candidates, separated by commas."""
    return ",".join(dict.fromkeys(row.group for row in ROWS if row.group != "candidates"))


def overrides(row: Row, seed: int, epochs: tuple[int, int]) -> list[str]:
    """Returns the config overrides of a row's run, as arguments of `mlcls_jax.train`.

    Args:
        row: a row that trains.
        seed: seed of the split and of everything else that is random.
        epochs: epochs of the head's phase and of fine-tuning.
    """
    durations = {
        ALL_EPOCHS: f"{sum(epochs)} epochs",
        TWICE: f"{2 * epochs[1]} epochs",
    }
    fields = {
        "recipe": "none",  # a row changes what its name says, and nothing else
        "seed": seed,
        "data.split_seed": seed,
        f"{HEAD}.duration": f"{epochs[0]} epochs",
        f"{FINETUNE}.duration": f"{epochs[1]} epochs",
    } | {path: durations.get(value, value) for path, value in row.change.items()}
    return [f"--config.{path}={value}" for path, value in fields.items()]


def _listed() -> str:
    groups: dict[str, list[str]] = {}
    for row in ROWS:
        groups.setdefault(row.group, []).append(row.name)
    return "; ".join(f"{group}: {', '.join(names)}" for group, names in groups.items())
