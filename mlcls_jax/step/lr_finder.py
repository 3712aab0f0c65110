"""Learning-rate range test: the loss while the rate grows, and the suggested rate.

Smith, arXiv:1506.01186.  The smoothing and the end of the test are those of fastai's `lr_find`.
Its suggestion, the steepest point of the smoothed loss, is not used: the smoothing lags, and if
batches differ by as much as the loss falls, that point is mostly among the first steps, after a
batch with a high loss.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import optax
from jaxtyping import Float

from mlcls_jax.config import Phase
from mlcls_jax.step.schedules import MakeSchedule

MEMORY = 2.0  # decay of the moving average that smooths the losses: 1 - MEMORY / steps
DIVERGED = 4.0  # multiple of the lowest smoothed loss
WINDOW = 0.3  # share of the steps over which a slope is measured
CERTAIN = 3.5  # standard errors of a slope; losses that never fall exceed it in one test of fifty
ROUNDING = 1e-9  # slopes per step below this are rounding errors
RISE = 0.1  # share of its fall that the loss must rise again, for its minimum to be clear


@dataclass
class LrFinder:
    """Measurements of a range test.

    Attributes:
        steps: length of the test if it does not diverge.
        batches: number of batches that are seen in turn.  The loss of a batch is compared with its
            own first one, so that differences between the batches are no noise.
        rates: learning rate at each step, of the group with the highest rate.
        losses: loss of each step, before its update, without the differences between batches.
        smoothed: exponential moving average of the losses, corrected for its initial bias.
    """

    steps: int
    batches: int = 1
    first: list[float] = field(default_factory=list, repr=False)  # loss of each batch
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)

    def add(self, rate: float, loss: float) -> None:
        """Adds the rate and the loss of a step; the loss must be finite.

        The first loss of each batch counts as unchanged, because the first rates are low.
        """
        count, memory = len(self.losses), max(1 - MEMORY / self.steps, 0.0)
        if count < self.batches:
            self.first.append(loss)
        loss += self.first[0] - self.first[count % self.batches]
        before = self.smoothed[-1] * (1 - memory**count) if count else 0.0
        mean = memory * before + (1 - memory) * loss
        self.rates.append(rate)
        self.losses.append(loss)
        self.smoothed.append(mean / (1 - memory ** (count + 1)))

    @property
    def has_diverged(self) -> bool:
        """Whether the smoothed loss exceeds DIVERGED times its minimum."""
        return bool(self.smoothed) and self.smoothed[-1] > DIVERGED * min(self.smoothed)

    @property
    def has_risen(self) -> bool:
        """Whether the smoothed loss rises again, by RISE of its fall, after its minimum."""
        lowest = min(self.smoothed)
        return self.smoothed[-1] - lowest > RISE * (max(self.smoothed) - lowest)

    @property
    def suggestion(self) -> float | None:
        """The suggested rate, or None if the loss nowhere falls by more than chance.

        It is the rate at the centre of the window whose line of least squares falls fastest.
        """
        half = round(WINDOW * self.steps / 2)
        if len(self.losses) < 2 * half + 1:
            return None
        slopes, errors = _slopes(np.array(self.losses), half)
        certain = slopes < -np.maximum(CERTAIN * errors, ROUNDING)
        if not certain.any():
            return None
        return self.rates[half + int(np.argmin(np.where(certain, slopes, 0.0)))]


def _slopes(
    losses: Float[np.ndarray, " step"], half: int
) -> tuple[Float[np.ndarray, " window"], Float[np.ndarray, " window"]]:
    """Returns the slope per step of each window of 2 * half + 1 losses, and its standard error."""
    offsets = np.arange(-half, half + 1)
    windows = np.lib.stride_tricks.sliding_window_view(losses, len(offsets))
    slopes = windows @ offsets / (offsets @ offsets)
    residuals = windows - windows.mean(axis=1, keepdims=True) - slopes[:, None] * offsets
    variance = (residuals**2).sum(axis=1) / (len(offsets) - 2)
    return slopes, np.sqrt(variance / (offsets @ offsets))


def rounded(rate: float) -> float:
    """Returns the rate rounded to two digits, the precision of a range test."""
    return float(f"{rate:.1e}")


def rows(test: LrFinder, count: int, width: int) -> list[list[str]]:
    """Returns table rows: the rate, the smoothed loss, and a bar that shows the loss.

    Args:
        test: the measurements, at least one.
        count: the largest number of rows.
        width: characters of a bar, which is empty at the lowest loss shown and full at the highest.
    """
    shown = range(0, len(test.rates), math.ceil(len(test.rates) / count))
    losses = [test.smoothed[i] for i in shown]
    low, span = min(losses), max(losses) - min(losses) or 1.0
    return [
        [
            f"{test.rates[i]:.1e}",
            f"{test.smoothed[i]:.4f}",
            ("#" * round(width * (test.smoothed[i] - low) / span)).ljust(width),
        ]
        for i in shown
    ]


def lr_finder_schedule(low: float, high: float, highest: float) -> MakeSchedule:
    """Returns the schedules of a range test, which replace those of the phase.

    The rate is multiplied by the same factor at each step.

    Args:
        low, high: rates at the first and at the last step, of the group with the highest rate.
        highest: that group's rate in the config; the other groups keep their ratio to it.
    """

    def make(phase: Phase, peak: float, steps: int, warmup: int) -> optax.Schedule:
        factor = (high / low) ** (1 / max(steps - 1, 1))
        return optax.exponential_decay(low * peak / highest, 1, factor)

    return make
