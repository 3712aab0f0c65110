"""Compares an evaluation with the base rate: a constant prediction of the class frequencies."""

from typing import Any

ABOVE = 1.02  # times the base rate's loss: more than rounding
FAR = 2.0  # times the base rate's loss: too far above to wait for another evaluation
NOTHING = 0.05  # share of the way from the base rate's mAP to 1; below it, nothing is learnt


def share_of_way(value: float, base: float) -> float:
    """Returns how much of the way from the base rate to 1 an mAP has covered.

    >>> share_of_way(0.625, 0.25)
    0.5
    """
    return (value - base) / max(1 - base, 1e-9)


def val_share(record: dict[str, Any]) -> float:
    """Returns how much of the way from the base rate to 1 the val mAP has covered."""
    return share_of_way(record["val"]["mAP"], record["base_rate"]["mAP"])


def knows_nothing(record: dict[str, Any]) -> bool:
    """Returns whether the val mAP is hardly above the base rate."""
    return val_share(record) < NOTHING


def is_above_base_rate(record: dict[str, Any], factor: float = ABOVE) -> bool:
    """Returns whether the val loss is above the base rate's.

    False for losses other than plain BCE: they move the probabilities on purpose.
    """
    above = record["val"]["loss"] > factor * record["base_rate"]["loss"]
    return above and record["loss_name"] == "bce"


def has_diverged(record: dict[str, Any]) -> bool:
    """Returns whether val is far above the base rate and the training loss is above it too."""
    return is_above_base_rate(record, FAR) and record["train_loss"] > record["base_rate"]["loss"]


def beats_base_rate(record: dict[str, Any]) -> bool:
    """Returns whether the probabilities for val say more than the class frequencies alone."""
    return not knows_nothing(record) and not is_above_base_rate(record)
