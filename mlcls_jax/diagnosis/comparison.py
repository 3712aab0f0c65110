"""Compares an evaluation with the base rate and with earlier ones.

The base rate is a constant prediction of the class frequencies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlcls_jax.evaluation.base_rate import SAMPLE

ABOVE = 1.02  # times the base rate's loss: more than rounding
FAR = 2.0  # times the base rate's loss: too far above to wait for another evaluation
NOTHING = 0.05  # share of the way from the base rate's mAP to 1; below it, nothing is learnt
FELL, ROSE = 0.01, 1.05  # val mAP below its best, and its loss as a multiple of its lowest
FLAT = 0.005  # a rise or fall of the mAP that is none


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


@dataclass(frozen=True)
class Decline:
    """How much worse val is now than at its best.

    Attributes:
        best, lowest: records with the highest val mAP and the lowest val loss.
        fell, rose: mAP below its best; loss as a multiple of its lowest.
    """

    best: dict[str, Any]
    lowest: dict[str, Any]
    fell: float
    rose: float

    @property
    def is_worse(self) -> bool:
        """Whether val mAP has fallen, or val loss has risen while the mAP fell a little."""
        return self.fell >= FELL or (self.rose >= ROSE and self.fell >= FLAT)

    @property
    def earlier(self) -> dict[str, Any] | None:
        """The training sample at the better evaluation."""
        return (self.lowest if self.rose >= ROSE else self.best).get(SAMPLE)

    def train_holds(self, sample: dict[str, Any]) -> bool:
        """Whether training images are fitted at least as well as before."""
        return not self.earlier or sample["mAP"] >= self.earlier["mAP"]


def decline_of(records: Sequence[dict[str, Any]]) -> Decline:
    """Returns how much worse the last record is than the best ones."""
    val = records[-1]["val"]
    best = max(records, key=lambda record: np.nan_to_num(record["val"]["mAP"]))
    lowest = min(records, key=lambda record: record["val"]["loss"])
    fell, rose = best["val"]["mAP"] - val["mAP"], val["loss"] / lowest["val"]["loss"]
    return Decline(best, lowest, fell, rose)
