"""What the curves of train and val say.

mAP is compared between images of train and val over the same classes, in evaluation mode; of
records without `evaluation.train_sample`, nothing is said that would need it.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlcls_jax.config import Config, Phase
from mlcls_jax.diagnosis.finding import Finding, longer, more_decay, scaled_rates
from mlcls_jax.diagnosis.live_warnings import ABOVE, FAR, NOTHING
from mlcls_jax.evaluation.base_rate import SAMPLE

FITTED = 0.5  # of the way from the base rate's mAP to 1: below it, images are not fitted
LEAST = 50  # images in the sample: the mAP of fewer is luck
GAP = 0.1  # of mAP between train and val: above it, images are remembered
FELL, ROSE = 0.01, 1.05  # mAP of val below its best, and its loss as a multiple of its lowest
FLAT = 0.005  # mAP over the last third of a phase's evaluations: less is a ceiling
SHORT = 4  # evaluations: of fewer, nobody can say that they are flat

_PARTS = ("stem", *(f"stage{number}" for number in range(1, 8)), "top")
_BACKBONE = tuple(f"backbone/{part}/conv/kernel" for part in _PARTS)
_UNFREEZE = (
    'a phase after it that trains the backbone as well: Phase("finetune", "12 epochs", '
    '[Group("head/.*", 5e-4, 1e-2), Group("backbone/.*", 3e-4, 1e-2)], warmup="1 epoch")'
)


def of_curves(config: Config, records: Sequence[dict[str, Any]]) -> list[Finding]:
    """Worse than the base rate, underfitting, overfitting, and what a frozen backbone allows.

    Args:
        config: of the run.
        records: of metrics.jsonl, in their order.
    """
    if not records:
        return []
    last = records[-1]
    if _is_ignorant(last) or _has_diverged(last):
        return _worse(config, last) + _frozen(config, records)
    found = [*_underfitting(config, records), *_overfitting(config, records)]
    if _is_above_base_rate(last):
        if _val_share(last) >= FITTED:
            found += _too_sure(last)
        elif not {finding.kind for finding in found} & {"underfitting", "overfitting"}:
            found += _worse(config, last)
    return found + _frozen(config, records)


def beats_base_rate(record: dict[str, Any]) -> bool:
    """Whether the probabilities for val say more than the class frequencies alone."""
    return not _is_ignorant(record) and not _is_above_base_rate(record)


def _is_ignorant(record: dict[str, Any]) -> bool:
    return _val_share(record) < NOTHING


def _is_above_base_rate(record: dict[str, Any], times: float = ABOVE) -> bool:
    """Of BCE alone: focal losses and the like leave probabilities that need not be right."""
    above = record["val"]["loss"] > times * record["base_rate"]["loss"]
    return above and record["loss_name"] == "bce"


def _has_diverged(record: dict[str, Any]) -> bool:
    """Far above on val, and on what it trains with as well."""
    return _is_above_base_rate(record, FAR) and record["train_loss"] > record["base_rate"]["loss"]


def _val_share(record: dict[str, Any]) -> float:
    return _share(record["val"]["mAP"], record["base_rate"]["mAP"])


def _beside_base_rate(record: dict[str, Any]) -> str:
    val, base = record["val"], record["base_rate"]
    return (
        f"val loss {val['loss']:.4f}, and {base['loss']:.4f} of the class frequencies alone; "
        f"val mAP {val['mAP']:.4f}, and {base['mAP']:.4f}"
    )


def _worse(config: Config, last: dict[str, Any]) -> list[Finding]:
    index = _index(config, last)
    lower = scaled_rates(index, config.phases[index], 0.1)
    more = ["--config.model.weights=imagenet"] if config.model.weights != "imagenet" else []
    if config.model.head != "gap":
        more.append("--config.model.head=gap")
    text = (
        f"Worse than the base rate, or no better ({_beside_base_rate(last)}): a learning rate that "
        "is too high, weights with another normalisation than their own, or a head too large for "
        "these images."
    )
    return [Finding("base rate", text, (*lower, *more))]


def _too_sure(last: dict[str, Any]) -> list[Finding]:
    text = (
        f"It orders the images well, but is too sure of itself ({_beside_base_rate(last)}): its "
        "probabilities are worse than none."
    )
    return [
        Finding(
            "too sure",
            text,
            ("--config.evaluation.calibration=one", "--config.loss.label_smoothing=0.1"),
        )
    ]


def _underfitting(config: Config, records: Sequence[dict[str, Any]]) -> list[Finding]:
    last, index = records[-1], _index(config, records[-1])
    sample = last.get(SAMPLE)
    if not sample or sample["images"] < LEAST:
        return []
    share, gap = _share(sample["mAP"], last["base_rate"]["mAP"]), sample["mAP"] - sample["val_mAP"]
    if share >= FITTED or gap >= GAP:
        return []
    phase = config.phases[index]
    text = (
        f"Underfitting: mAP {sample['mAP']:.4f} on training images is {share:.0%} of the way "
        f"from the base rate to 1 (below {FITTED:.0%}), and val is near it ({sample['val_mAP']:.4f}"
        f", less than {GAP:g} apart). "
    )
    rise = _late_rise([record for record in records if record["phase"] == phase.name])
    faster = scaled_rates(index, phase, 3)
    if rise is None or rise > FLAT:
        text += "It still rises, or was evaluated too rarely to tell: train longer."
        return [Finding("underfitting", text, (longer(index, phase), *faster))]
    text += f"The last third of {phase.name} brought {rise:+.4f}: longer alone will not do."
    if _is_frozen(phase):
        return [Finding("underfitting", text, (*faster, _UNFREEZE))]
    return [
        Finding(
            "underfitting",
            text,
            (*faster, "a larger --config.model.variant"),
        )
    ]


def _overfitting(config: Config, records: Sequence[dict[str, Any]]) -> list[Finding]:
    last, index = records[-1], _index(config, records[-1])
    sample = last.get(SAMPLE)
    if not sample or sample["images"] < LEAST:
        return []
    best = max(records, key=lambda record: np.nan_to_num(record["val"]["mAP"]))
    lowest = min(records, key=lambda record: record["val"]["loss"])
    fell = best["val"]["mAP"] - last["val"]["mAP"]
    rose = last["val"]["loss"] / lowest["val"]["loss"]
    gap, earlier = sample["mAP"] - sample["val_mAP"], (lowest if rose >= ROSE else best).get(SAMPLE)
    if gap < GAP:
        return []
    apart = f"mAP {sample['mAP']:.4f} on training images, {sample['val_mAP']:.4f} on val"
    milder = (
        "--config.augment.rand_augment=2",
        "--config.augment.train_resize=random_crop",
        *more_decay(index, config.phases[index]),
    )
    holds = not earlier or sample["mAP"] >= earlier["mAP"]  # or all have become worse
    if holds and (fell >= FELL or rose >= ROSE):
        since = f" ({earlier['mAP'] - earlier['val_mAP']:.4f} before)" if earlier else ""
        text = (
            f"Overfitting: {apart}, a gap of {gap:.4f}{since}, while val mAP is {fell:.4f} below "
            f"its best (step {best['step']}) and val loss {rose:.2f} times its lowest (step "
            f"{lowest['step']}). The best checkpoint is kept whatever comes after it."
        )
        stop = f"--config.phases[{index}].patience=3"
        return [Finding("overfitting", text, (stop, *milder))]
    remembers = f"It remembers its images ({apart}; a gap above {GAP:g})"
    if fell >= FELL or rose >= ROSE:
        text = (
            f"{remembers}, and lost ground in both: val mAP is {fell:.4f} below its best and val "
            f"loss {rose:.2f} times its lowest, while training images were fitted better before."
        )
        slower = scaled_rates(index, config.phases[index], 1 / 3)
        return [Finding("gap", text, (*slower, *milder))]
    text = (
        f"{remembers}, but val does not fall ({fell:.4f} below its best): more images or more "
        "augmentation would help most."
    )
    return [Finding("gap", text, milder)]


def _frozen(config: Config, records: Sequence[dict[str, Any]]) -> list[Finding]:
    """The ceiling of a phase with a frozen backbone, or what the phases after it have brought."""
    names = list(dict.fromkeys(record["phase"] for record in records))
    phases = {phase.name: phase for phase in config.phases}
    frozen = [name for name in names if name in phases and _is_frozen(phases[name])]
    if not frozen:
        return []
    own = [record for record in records if record["phase"] == frozen[-1]]
    later = [record for record in records if record["step"] > own[-1]["step"]]
    ceiling = max(record["val"]["mAP"] for record in own)
    if later:
        tuned = max(record["val"]["mAP"] for record in later)
        text = (
            f"Fine-tuning brought {tuned - ceiling:+.4f} of val mAP: {ceiling:.4f} at best with "
            f"the backbone frozen ({frozen[-1]}), {tuned:.4f} after it."
        )
        if tuned - ceiling > FLAT:
            return [Finding("fine-tuning", text)]
        index = _index(config, later[-1])
        phase = config.phases[index]
        rates = scaled_rates(index, phase, 1 / 3)
        return [Finding("no gain", text, (*rates, longer(index, phase)))]
    rise = _late_rise(own)
    if rise is None or rise > FLAT:
        return []
    if own[-1]["loss_name"] == "bce" and own[-1]["train_loss"] > own[-1]["base_rate"]["loss"]:
        return []  # it has hardly learnt yet
    text = (
        f"With its backbone frozen, the network is at its ceiling: val mAP {ceiling:.4f}, and the "
        f"last third of {frozen[-1]} brought {rise:+.4f} (less than {FLAT:g})."
    )
    return [Finding("ceiling", text, (_UNFREEZE,))]


def _share(value: float, base: float) -> float:
    """How much of the way from the base rate to 1."""
    return (value - base) / max(1 - base, 1e-9)


def _late_rise(records: Sequence[dict[str, Any]]) -> float | None:
    """What the last third of the evaluations has brought over the best before it; None: too few."""
    if len(records) < SHORT:
        return None
    values = [record["val"]["mAP"] for record in records]
    before = len(values) - -(-len(values) // 3)
    return max(values[before:]) - max(values[:before])


def _is_frozen(phase: Phase) -> bool:
    return not any(re.fullmatch(g.pattern, path) for g in phase.groups for path in _BACKBONE)


def _index(config: Config, record: dict[str, Any]) -> int:
    """Of the record's phase in the config; the last one if it has none of that name."""
    names = [phase.name for phase in config.phases]
    return names.index(record["phase"]) if record["phase"] in names else len(names) - 1
