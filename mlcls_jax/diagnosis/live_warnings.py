"""Warnings in words while a run trains: what its evaluations say is wrong, and what to try.

Each rule looks at the figures of one phase and has few false alarms rather than few misses.
"""

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mlcls_jax.config import Phase
from mlcls_jax.diagnosis.finding import more_decay, scaled_rates

ABOVE, FAR = 1.02, 2.0  # times the base rate's loss: more than rounding, and nothing to wait for
FALLING = 0.9  # times the loss of the evaluation before: below it, the next one may be good
NOTHING = 0.05  # of the way from the base rate's mAP to 1: a model below it knows nothing
EQUAL = 0.02  # logits: of classes that differ less between images, a probability differs by 0.5 %
RISE = 0.1  # of the base rate's loss, or of the usual one: less is the chance of dropout and order
RISES = 2  # after one, the loss may still settle
WHOLE = 0.5  # epochs between two evaluations that compare: in fewer, few of the images are drawn

# Records of a phase, the phase, its index in the config -> a sentence, or "".
Rule = Callable[[Sequence[dict[str, Any]], Phase, int], str]


def warnings(records: Sequence[dict[str, Any]], phase: Phase, index: int) -> list[str]:
    """What the last evaluation of a phase is the first to show: each with its figures, the likely
    cause, and overrides of the config to try.  So each is said once a phase, however
    often the run was continued.

    Args:
        records: of metrics.jsonl, in their order.
        phase: that the last of them is of.
        index: of the phase in the config.
    """
    own = [record for record in records if record["phase"] == phase.name]
    said: list[str] = []
    for rule in (_above_base_rate, _at_base_rate, _all_equal, _oscillating):
        text = rule(own, phase, index)
        if text and not any(rule(own[:count], phase, index) for count in range(1, len(own))):
            said.append(text)
    return said


def logit_spread(logits: Float[np.ndarray, "image class"]) -> float:
    """How much predictions differ between images: the median over the classes of the standard
    deviation of the logits."""
    return float(np.median(logits.std(axis=0, dtype=np.float64)))


def _above_base_rate(records: Sequence[dict[str, Any]], phase: Phase, index: int) -> str:
    """Far above after an epoch, or at two evaluations in a row without falling: what begins from
    something else, such as statistics of other images, needs some time.

    Plain BCE alone compares: other losses move the probabilities on purpose.
    """
    last = records[-1]
    val, base, train = last["val"]["loss"], last["base_rate"]["loss"], last["train_loss"]
    if last["epoch"] < 1 or last["loss_name"] != "bce" or not val > ABOVE * base:
        return ""
    earlier = [of["val"]["loss"] for of in records if of["epoch"] <= last["epoch"] - WHOLE]
    stays = bool(earlier) and ABOVE * base < earlier[-1] < val / FALLING
    if min(val, train) < FAR * base and not stays:
        return ""
    text = (
        f"val loss {val:.4f} is above {base:.4f}, which the class frequencies alone have, "
        f"after {last['epoch']:.4g} epochs"
    )
    if train > base:
        return (
            f"{text}, and so is the training loss, {train:.4f}: the learning rate is too high, or "
            "the weights were made with another normalisation than their origin says. Try "
            f"{_lower(phase, index)}"
        )
    if phase.batch_norm == "train":
        return (
            f"{text}, but the training loss is not, {train:.4f}: the running statistics of the "
            "normalisations lag behind, or the images are remembered. Try "
            f"'--config.phases[{index}].batch_norm=frozen'"
        )
    return (
        f"{text}, but the training loss is not, {train:.4f}: the images are remembered, as what "
        f"trains is too large for so few. Try {_quoted(more_decay(index, phase))} or "
        f"'--config.phases[{index}].patience=2'"
    )


def _at_base_rate(records: Sequence[dict[str, Any]], phase: Phase, index: int) -> str:
    last = records[-1]
    val, base = last["val"]["mAP"], last["base_rate"]["mAP"]
    if last["epoch"] < 1 or not val - base < NOTHING * (1 - base):
        return ""
    return (
        f"val mAP {val:.4f} is no better than {base:.4f}, that of a constant, after "
        f"{last['epoch']:.4g} epochs: labels that are not those of their images, or a learning "
        "rate that is far too high or too low. Look at --dry-run's sheet of images and labels, "
        f"then try {_lower(phase, index)}, or what mlcls_jax.lr_find --phase {phase.name} suggests"
    )


def _all_equal(records: Sequence[dict[str, Any]], phase: Phase, index: int) -> str:
    last = records[-1]
    spread = last.get("logit_spread")
    if last["epoch"] < 1 or spread is None or spread >= EQUAL:
        return ""
    return (
        f"predictions are the same for all images: their logits differ by {spread:.2g} (standard "
        "deviation, median class). The images look alike to the network, such as when they are "
        "normalised twice or the weights are not those of the variant, or the training has "
        f"collapsed. Try --config.model.weights=imagenet, or {_lower(phase, index)}"
    )


def _oscillating(records: Sequence[dict[str, Any]], phase: Phase, index: int) -> str:
    """Of a rate that is not too high, the mean loss over an epoch hardly ever rises."""
    losses, epochs = ([record[key] for record in records] for key in ("train_loss", "epoch"))
    if len(losses) <= RISES or np.diff(epochs).min() < WHOLE:
        return ""
    scale = max(records[-1]["base_rate"]["loss"], float(np.median(losses)))
    turns = _turns(losses, RISE * scale)
    if len(turns) // 2 < RISES:
        return ""
    path = ", ".join(f"{loss:.4f}" for loss in turns[-2 * RISES :])
    return (
        f"the training loss goes up and down by more than {RISE:.0%} ({path} among its lows and "
        f"highs): the learning rate is too high for what trains in {phase.name}. Try "
        f"{_lower(phase, index)}, or what mlcls_jax.lr_find --phase {phase.name} suggests"
    )


def _turns(losses: Sequence[float], least: float) -> list[float]:
    """Lows and highs in turn, each high by more than `least` above the lows beside it; the first
    is a low, and the last is as low or as high as the losses got so far."""
    turns, up = [losses[0]], False
    for loss in losses[1:]:
        if loss >= turns[-1] if up else loss <= turns[-1]:
            turns[-1] = loss
        elif abs(loss - turns[-1]) > least:
            turns.append(loss)
            up = not up
    return turns


def _lower(phase: Phase, index: int) -> str:
    return _quoted(scaled_rates(index, phase, 0.1))


def _quoted(overrides: Sequence[str]) -> str:
    """For a shell."""
    return " ".join(map(shlex.quote, overrides))
