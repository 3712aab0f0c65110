"""Rules for the curves of train and val.

The mAP of train and val is compared over the same classes, in evaluation mode.  A rule that needs
the training sample (`evaluation.train_sample`) does not apply to records without it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlcls_jax.config import Phase
from mlcls_jax.diagnosis.comparison import (
    FLAT,
    ROSE,
    decline_of,
    has_diverged,
    is_above_base_rate,
    knows_nothing,
    share_of_way,
    val_share,
)
from mlcls_jax.diagnosis.finding import Evidence, Finding
from mlcls_jax.diagnosis.overrides import longer, more_decay, phase_override, scaled_rates
from mlcls_jax.evaluation.base_rate import SAMPLE
from mlcls_jax.models.weights.aliases import ALIASES

_IMAGENET = {"imagenet", *ALIASES["imagenet"].values()}
FITTED = 0.5  # share of the way from the base rate's mAP to 1; below it, images are not fitted
MIN_SAMPLE = 50  # images in the sample: the mAP of fewer is too noisy
GAP = 0.1  # train mAP minus val mAP: above it, the network memorises its images
MIN_EVALUATIONS = 4  # to tell whether a phase still improves

_PARTS = ("stem", *(f"stage{i}" for i in range(1, 8)), "top")
_BACKBONE = tuple(f"backbone/{part}/conv/kernel" for part in _PARTS)
_UNFREEZE = (
    'add a phase that trains the backbone as well: Phase("finetune", "12 epochs", '
    '[Group("head/.*", 5e-4, 1e-2), Group("backbone/.*", 3e-4, 1e-2)], warmup="1 epoch")'
)
_SMOOTHED = "--config.loss.label_smoothing=0.1"
_CALIBRATE = ("--config.evaluation.calibration=one", _SMOOTHED)


def random_weights(evidence: Evidence) -> Finding | None:
    """Finds a network that starts from random weights which partly stay as they are."""
    if evidence.weights or not evidence.records:
        return None
    index, phase = evidence.current
    if _is_frozen(phase):
        what, advice = "its backbone is frozen", _UNFREEZE
    elif phase.batch_norm == "frozen":
        what = "batch normalisation is frozen, so that its statistics stay 0 and 1"
        advice = phase_override(index, "batch_norm", "train")
    else:
        return None
    text = f"The network started from random weights, and in {phase.name} {what}."
    return Finding("random weights", text, ("--config.model.weights=imagenet", advice))


def underfitting(evidence: Evidence) -> Finding | None:
    """Finds training images that are not fitted, with val close to them."""
    sample = _sample(evidence)
    if sample is None:
        return None
    share = share_of_way(sample["mAP"], evidence.records[-1]["base_rate"]["mAP"])
    if share >= FITTED or _gap(sample) >= GAP:
        return None
    index, phase = evidence.current
    text = (
        f"Underfitting: at the last evaluation, mAP on training images is {sample['mAP']:.4f}, "
        f"{share:.0%} of the way from the base rate to 1 (below {FITTED:.0%}), and val is close to "
        f"it ({sample['val_mAP']:.4f} over the same {sample['classes']} classes, less than {GAP:g} "
        "apart). "
    )
    rise = _late_rise([record for record in evidence.records if record["phase"] == phase.name])
    faster = scaled_rates(index, phase, 3)
    if rise is None or rise > FLAT:
        text += "It still rises, or there are too few evaluations to tell: train longer."
        return Finding("underfitting", text, (longer(index, phase), *faster))
    text += f"The last third of {phase.name} added {rise:+.4f}: training longer will not be enough."
    larger = _UNFREEZE if _is_frozen(phase) else "a larger --config.model.variant"
    return Finding("underfitting", text, (*faster, larger))


def overfitting(evidence: Evidence) -> Finding | None:
    """Finds training images that are memorised while val gets worse."""
    sample = _memorised(evidence)
    if sample is None:
        return None
    decline = decline_of(evidence.records)
    if not (decline.is_worse and decline.train_holds(sample)):
        return None
    earlier = decline.earlier
    before = f" ({_gap(earlier):.4f} before)" if earlier else ""
    text = (
        f"Overfitting: {_both(sample)}, a gap of {_gap(sample):.4f}{before}, while val mAP over "
        f"all classes is {decline.fell:.4f} below its best (step {decline.best['step']}) and val "
        f"loss is {decline.rose:.2f} times its lowest (step {decline.lowest['step']}). The best "
        "checkpoint is kept in any case."
    )
    index, phase = evidence.current
    stop = phase_override(index, "patience", 3)
    return Finding("overfitting", text, (stop, *_regularise(index, phase)))


def gap(evidence: Evidence) -> Finding | None:
    """Finds training images that are memorised without overfitting."""
    sample = _memorised(evidence)
    if sample is None:
        return None
    decline = decline_of(evidence.records)
    index, phase = evidence.current
    milder = _regularise(index, phase)
    text = f"The network memorises its training images ({_both(sample)}; a gap above {GAP:g})"
    if not decline.is_worse:
        rise = _late_rise([r for r in evidence.records if r["phase"] == phase.name])
        if rise is not None and rise > FLAT and decline.rose < ROSE:
            return None  # val still improves
        held = f"{decline.fell:.4f} below its best" if decline.fell > 0 else "its best so far"
        text += f", but val mAP does not fall ({held})"
        if decline.rose >= ROSE:
            text += f". Val loss is {decline.rose:.2f} times its lowest: the "
            if _is_calibrated(evidence):
                text += "logits have become too large, which the fitted temperature corrects."
                return Finding("gap", text, milder)
            text += "probabilities have become too confident."
            return Finding("gap", text, (*milder, *_CALIBRATE))
        text += ": more images or more augmentation would help most."
        return Finding("gap", text, milder)
    if decline.train_holds(sample):
        return None  # this is overfitting
    text += (
        f", and both have become worse: val mAP is {decline.fell:.4f} below its best, val loss is "
        f"{decline.rose:.2f} times its lowest, and training images were fitted better before."
    )
    return Finding("gap", text, (*scaled_rates(index, phase, 1 / 3), *milder))


def overconfident(evidence: Evidence) -> Finding | None:
    """Finds a good ranking of the images with probabilities worse than the base rate's."""
    if not evidence.records or _is_hopeless(evidence.records[-1]):
        return None
    last = evidence.records[-1]
    if not (is_above_base_rate(last) and val_share(last) >= FITTED):
        return None
    text = (
        f"The network ranks the images well but is overconfident ({_next_to_base_rate(last)}): "
        "its probabilities are worse than the class frequencies"
    )
    if _is_calibrated(evidence):
        text += " before calibration."
        return Finding("overconfident", text, (_SMOOTHED,))
    return Finding("overconfident", f"{text}.", _CALIBRATE)


def worse_than_base_rate(evidence: Evidence) -> Finding | None:
    """Finds a loss or an mAP that is no better than the base rate."""
    if not evidence.records:
        return None
    last = evidence.records[-1]
    if not _is_hopeless(last) and (not is_above_base_rate(last) or val_share(last) >= FITTED):
        return None
    is_best = evidence.weights.partition("@")[0] in _IMAGENET
    pretrained = [] if is_best else ["--config.model.weights=imagenet"]
    smaller = ["--config.model.head=gap"] if evidence.head != "gap" else []
    text = (
        f"The val loss or val mAP is no better than the base rate ({_next_to_base_rate(last)}). "
        "Likely causes: a learning rate that is too high, weights that expect another input "
        "normalisation, or a head that is too large for this data set."
    )
    lower = scaled_rates(*evidence.current, 0.1)
    return Finding("base rate", text, (*lower, *pretrained, *smaller))


def fine_tuning(evidence: Evidence) -> Finding | None:
    """Reports what the phases after a frozen backbone have gained."""
    frozen = _last_frozen(evidence)
    if frozen is None or frozen.gain is None or not frozen.gain > FLAT:
        return None
    return Finding("fine-tuning", frozen.gain_text)


def no_gain(evidence: Evidence) -> Finding | None:
    """Finds phases after a frozen backbone that have gained nothing."""
    frozen = _last_frozen(evidence)
    if frozen is None or frozen.gain is None or frozen.gain > FLAT:
        return None
    index, phase = evidence.current
    rates = scaled_rates(index, phase, 1 / 3)
    return Finding("no gain", frozen.gain_text, (*rates, longer(index, phase)))


def ceiling(evidence: Evidence) -> Finding | None:
    """Finds a frozen backbone with which val no longer improves."""
    frozen = _last_frozen(evidence)
    if frozen is None or frozen.gain is not None:
        return None
    rise, last = _late_rise(frozen.records), frozen.records[-1]
    if rise is None or rise > FLAT:
        return None
    if last["loss_name"] == "bce" and last["train_loss"] > last["base_rate"]["loss"]:
        return None  # it has hardly begun to learn
    text = (
        f"With a frozen backbone, the network has reached its ceiling: the best val mAP is "
        f"{frozen.ceiling:.4f}, and the last third of {frozen.name} added {rise:+.4f} (less "
        f"than {FLAT:g})."
    )
    return Finding("ceiling", text, (_UNFREEZE,))


@dataclass(frozen=True)
class _Frozen:
    """The last phase with a frozen backbone.

    ceiling, tuned: best val mAP in it and after it; tuned is None without a later evaluation.
    """

    name: str
    records: Sequence[dict[str, Any]]
    ceiling: float
    tuned: float | None

    @property
    def gain(self) -> float | None:
        return None if self.tuned is None else self.tuned - self.ceiling

    @property
    def gain_text(self) -> str:
        return (
            f"Fine-tuning changed val mAP by {self.gain:+.4f}: {self.ceiling:.4f} at best with "
            f"the backbone frozen ({self.name}), {self.tuned:.4f} at best afterwards."
        )


def _last_frozen(evidence: Evidence) -> _Frozen | None:
    phases = {phase.name: phase for phase in evidence.phases.values()}
    names = dict.fromkeys(record["phase"] for record in evidence.records)
    frozen = [name for name in names if name in phases and _is_frozen(phases[name])]
    if not frozen:
        return None
    records = [record for record in evidence.records if record["phase"] == frozen[-1]]
    later = [record for record in evidence.records if record["step"] > records[-1]["step"]]
    best = max(record["val"]["mAP"] for record in records)
    tuned = max(record["val"]["mAP"] for record in later) if later else None
    return _Frozen(frozen[-1], records, best, tuned)


def _is_calibrated(evidence: Evidence) -> bool:
    return evidence.calibration != "none"


def _is_hopeless(record: dict[str, Any]) -> bool:
    return knows_nothing(record) or has_diverged(record)


def _sample(evidence: Evidence) -> dict[str, Any] | None:
    """The last training sample; None if it is missing or small, or if nothing is learnt."""
    if not evidence.records or _is_hopeless(evidence.records[-1]):
        return None
    sample = evidence.records[-1].get(SAMPLE)
    return sample if sample and sample["images"] >= MIN_SAMPLE else None


def _memorised(evidence: Evidence) -> dict[str, Any] | None:
    """The last training sample if it is fitted much better than val."""
    sample = _sample(evidence)
    return None if sample is None or _gap(sample) < GAP else sample


def _gap(sample: dict[str, Any]) -> float:
    return sample["mAP"] - sample["val_mAP"]


def _both(sample: dict[str, Any]) -> str:
    return (
        f"at the last evaluation, mAP over the {sample['classes']} classes in both is "
        f"{sample['mAP']:.4f} on training images and {sample['val_mAP']:.4f} on val"
    )


def _regularise(index: int, phase: Phase) -> tuple[str, ...]:
    return "--config.augment.mixup=0.2", *more_decay(index, phase)


def _next_to_base_rate(record: dict[str, Any]) -> str:
    val, base = record["val"], record["base_rate"]
    return (
        f"last evaluation: val loss {val['loss']:.4f}, base rate {base['loss']:.4f}; "
        f"val mAP {val['mAP']:.4f}, base rate {base['mAP']:.4f}"
    )


def _late_rise(records: Sequence[dict[str, Any]]) -> float | None:
    """Rise of the best mAP in the last third of the evaluations; None if there are too few."""
    if len(records) < MIN_EVALUATIONS:
        return None
    values = [record["val"]["mAP"] for record in records]
    before = len(values) - -(-len(values) // 3)
    return max(values[before:]) - max(values[:before])


def _is_frozen(phase: Phase) -> bool:
    return not any(re.fullmatch(g.pattern, path) for g in phase.groups for path in _BACKBONE)
