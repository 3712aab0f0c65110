"""What ablation.py compares: each row is the baseline with some fields of the config changed.

The baseline is the default config: the head alone for six epochs on cached features, then
everything for twelve.
"""

from dataclasses import dataclass, field
from typing import Any

HEAD, FINETUNE = "phases[0]", "phases[1]"
BASELINE = "baseline"
NO_EPOCHS = "0 steps"
# Durations that are made of the epochs of the two phases.
ALL_EPOCHS, TWICE = "those of both phases", "twice those of fine-tuning"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the line, and of its folder.
        group: of lines that are asked for together.
        change: {field of the config: value}.
        evaluate: options of an evaluation of the baseline's runs, in place of training.
    """

    name: str
    group: str
    change: dict[str, Any] = field(default_factory=dict)
    evaluate: tuple[str, ...] = ()


# A mean of the weights over the last twenty steps or so: these runs have a hundred.
_EMA = {f"{FINETUNE}.ema": 0.95}
_CROP = {"augment.train_resize": "random_crop", "augment.min_scale": 0.5}
_LAYERS = {f"{FINETUNE}.layer_decay": 0.75}
_DECODER = {  # attention at the rate of a dense layer would not survive the first phase
    "model.head": "mldecoder",
    f"{HEAD}.groups[0].learning_rate": 1e-3,
}
ROWS = (
    Row(BASELINE, "baseline"),
    # Which loss; plain binary cross-entropy is the baseline's.
    Row("pos-weight", "loss", {"loss.pos_weight": "auto"}),
    Row("focal", "loss", {"loss.name": "focal"}),
    Row("asl", "loss", {"loss.name": "asl"}),
    Row("label-smoothing", "loss", {"loss.label_smoothing": 0.1}),
    # What trains when, in equally many steps.
    Row("frozen", "phases", {f"{HEAD}.duration": ALL_EPOCHS, f"{FINETUNE}.duration": NO_EPOCHS}),
    Row("full", "phases", {f"{HEAD}.duration": NO_EPOCHS, f"{FINETUNE}.duration": ALL_EPOCHS}),
    Row(  # a fresh head may need more than what is best after a phase of its own
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
    Row(  # as strong as timm's --color-jitter by default
        "colour",
        "augment",
        {"augment.brightness": 0.4, "augment.contrast": 0.4, "augment.saturation": 0.4},
    ),
    Row("random-crop", "augment", {"augment.train_resize": "random_crop"}),
    Row("tta-flip", "evaluate", evaluate=("--tta", "flip")),
    Row("tta-crops", "evaluate", evaluate=("--tta", "crops")),
    Row("mldecoder", "head", _DECODER),
    # Hopes for a few hundred images, several changes in some.
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
    """The rows of a comma-separated list of rows and groups, the baseline always first.

    Raises:
        ValueError: no such row or group.
    """
    wanted = {name for name in names.split(",") if name}
    known = {row.name for row in ROWS} | {row.group for row in ROWS}
    if unknown := sorted(wanted - known):
        raise ValueError(f"--rows {', '.join(unknown)}: no such row or group; {_listed()}")
    return [row for row in ROWS if wanted & {row.name, row.group} or row.name == BASELINE]


def default_rows() -> str:
    """All groups but the candidates."""
    return ",".join(dict.fromkeys(row.group for row in ROWS if row.group != "candidates"))


def overrides(row: Row, seed: int, epochs: tuple[int, int]) -> list[str]:
    """The arguments of `mlcls_jax.train` that make a row's run.

    Args:
        row: one that trains.
        seed: of the split and of all else that is random.
        epochs: of the head's phase and of fine-tuning.
    """
    durations = {
        ALL_EPOCHS: f"{sum(epochs)} epochs",
        TWICE: f"{2 * epochs[1]} epochs",
    }
    fields = {
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
