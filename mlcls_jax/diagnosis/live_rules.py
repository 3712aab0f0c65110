"""Rules for warnings while a run trains.

Each rule looks at the records of one phase.  The thresholds prefer a missed warning to a false one.
`Finding.next` holds alternatives, quoted for a shell.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlcls_jax.diagnosis.comparison import ABOVE, FAR, is_above_base_rate, knows_nothing
from mlcls_jax.diagnosis.finding import Evidence, Finding
from mlcls_jax.diagnosis.overrides import more_decay, phase_override, quoted, scaled_rates
from mlcls_jax.system.invocation import command

FALLING = 0.9  # times the loss of an earlier evaluation: below it, the next one may be good
EQUAL = 0.02  # logits: if they differ less between images, a probability differs by 0.5 %
RISE = 0.1  # of the loss: a smaller rise is noise from dropout and the order of the images
RISES = 2  # after one rise, the loss may still settle
MIN_EPOCHS = 0.5  # between two evaluations that are compared: fewer images vary too much


def above_base_rate(evidence: Evidence) -> Finding | None:
    """Finds a val loss that is, and stays, above the base rate's.

    It must be far above after an epoch, or above at two evaluations in a row without falling:
    a network that starts from statistics of other images needs some time.
    """
    last = evidence.records[-1]
    val, base, train = last["val"]["loss"], last["base_rate"]["loss"], last["train_loss"]
    if last["epoch"] < 1 or not is_above_base_rate(last):
        return None
    latest = last["epoch"] - MIN_EPOCHS
    earlier = [record["val"]["loss"] for record in evidence.records if record["epoch"] <= latest]
    stays = bool(earlier) and ABOVE * base < earlier[-1] < val / FALLING
    if min(val, train) < FAR * base and not stays:
        return None
    index, phase = evidence.current
    text = (
        f"val loss {val:.4f} is above {base:.4f}, the loss of the class frequencies alone, "
        f"after {_epochs(last)}"
    )
    if train > base:
        text += (
            f", and so is the training loss, {train:.4f}: the learning rate is too high, or the "
            "weights expect another input normalisation than the one recorded for them"
        )
        return Finding("above base rate", text, (_lower_rates(evidence),))
    text += f", but the training loss is not, {train:.4f}: "
    if phase.batch_norm == "train":
        text += (
            "the running statistics of batch normalisation lag behind, or the network memorises "
            "the images"
        )
        frozen = phase_override(index, "batch_norm", "frozen")
        return Finding("above base rate", text, (quoted([frozen]),))
    text += "the network memorises the images, because too many parameters train for so few images"
    stop = phase_override(index, "patience", 2)
    return Finding("above base rate", text, (quoted(more_decay(index, phase)), quoted([stop])))


def at_base_rate(evidence: Evidence) -> Finding | None:
    """Finds a val mAP that is no better than that of a constant prediction after an epoch."""
    last = evidence.records[-1]
    val, base = last["val"]["mAP"], last["base_rate"]["mAP"]
    if last["epoch"] < 1 or val == 1 or not knows_nothing(last):
        return None
    text = (
        f"val mAP {val:.4f} is no better than {base:.4f}, that of a constant prediction, after "
        f"{_epochs(last)}: the labels do not match the images, or the learning rate is "
        "far too high or too low. First check the images and labels in the contact sheet of "
        "--dry-run"
    )
    return Finding("at base rate", text, (_lower_rates(evidence), _lr_find(evidence)))


def equal_predictions(evidence: Evidence) -> Finding | None:
    """Finds logits that hardly differ between images after an epoch."""
    last = evidence.records[-1]
    spread = last.get("logit_spread")
    if last["epoch"] < 1 or spread is None or spread >= EQUAL:
        return None
    text = (
        f"predictions are the same for all images: their logits differ by {spread:.2g} (standard "
        "deviation, median class). The images look alike to the network, for example because they "
        "are normalised twice or the weights belong to another variant, or training has collapsed"
    )
    pretrained = "--config.model.weights=imagenet"
    return Finding("equal predictions", text, (pretrained, _lower_rates(evidence)))


def oscillation(evidence: Evidence) -> Finding | None:
    """Finds a training loss that rises repeatedly.

    Unless the learning rate is too high, the mean loss over an epoch hardly ever rises.
    """
    records = evidence.records
    losses, epochs = ([record[key] for record in records] for key in ("train_loss", "epoch"))
    if len(losses) <= RISES or np.diff(epochs).min() < MIN_EPOCHS:
        return None
    scale = max(records[-1]["base_rate"]["loss"], float(np.median(losses)))
    turns = _turning_points(losses, RISE * scale)
    if len(turns) // 2 < RISES:
        return None
    _, phase = evidence.current
    path = ", ".join(f"{loss:.4f}" for loss in turns[-2 * RISES :])
    text = (
        f"the training loss goes up and down by more than {RISE:.0%} ({path} among its lows and "
        f"highs): the learning rate is too high for what trains in {phase.name}"
    )
    return Finding("oscillation", text, (_lower_rates(evidence), _lr_find(evidence)))


def _turning_points(losses: Sequence[float], least: float) -> list[float]:
    """Lows and highs in turn, starting with a low.

    Each high is above the lows next to it by more than `least`; the last turning point is the
    lowest or highest loss so far.
    """
    turns, rising = [losses[0]], False
    for loss in losses[1:]:
        if loss >= turns[-1] if rising else loss <= turns[-1]:
            turns[-1] = loss
        elif abs(loss - turns[-1]) > least:
            turns.append(loss)
            rising = not rising
    return turns


def _lower_rates(evidence: Evidence) -> str:
    return quoted(scaled_rates(*evidence.current, 0.1))


def _lr_find(evidence: Evidence) -> str:
    _, phase = evidence.current
    return f"what {command('lr_find')} --phase {phase.name} suggests"


def _epochs(record: dict[str, Any]) -> str:
    """Returns the epochs of a record as text."""
    return f"{record['epoch']:.4g} epoch{'' if record['epoch'] == 1 else 's'}"
