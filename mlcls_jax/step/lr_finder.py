"""A learning-rate range test: the loss while the rate grows, and the rate that it suggests.

Smith, arXiv:1506.01186; smoothing and end as in fastai's `lr_find`.  Not its suggestion, the
steepest place of the smoothed loss: the smoothing lags, and where batches differ by as much as the
loss falls, the steepest place is mostly among the first steps, after a batch that was hard.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import optax
from jaxtyping import Float

from mlcls_jax.config import Phase
from mlcls_jax.step.schedules import MakeSchedule

MEMORY = 0.98  # of the moving average that smooths the losses
DIVERGED = 4.0  # times the lowest smoothed loss
WINDOW = 0.3  # share of the steps that a slope is measured over
CERTAIN = 3.5  # standard errors of it; losses that never fall reach that in one test of fifty
ROUNDING = 1e-9  # a slope per step that is none


@dataclass
class LrFinder:
    """What was measured so far.

    steps: that the test takes if it does not diverge.
    rates: of the group with the highest rate, at each step.
    losses: of each step, before its update.
    smoothed: their exponential moving average, without the bias of its start.
    """

    steps: int
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)

    def add(self, rate: float, loss: float) -> None:
        """Notes the loss of a step, which is finite."""
        count = len(self.losses)
        before = self.smoothed[-1] * (1 - MEMORY**count) if count else 0.0
        mean = MEMORY * before + (1 - MEMORY) * loss
        self.rates.append(rate)
        self.losses.append(loss)
        self.smoothed.append(mean / (1 - MEMORY ** (count + 1)))

    @property
    def has_diverged(self) -> bool:
        """Whether more steps would only show more of it."""
        return bool(self.smoothed) and self.smoothed[-1] > DIVERGED * min(self.smoothed)

    @property
    def suggestion(self) -> float | None:
        """The rate in the middle of the steps over which the loss falls fastest, by a straight line
        through it; None where no fall is larger than chance."""
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
    """Slopes per step of the lines through every 2 * half + 1 consecutive losses, and their
    standard errors."""
    at = np.arange(-half, half + 1)
    windows = np.lib.stride_tricks.sliding_window_view(losses, len(at))
    slopes = windows @ at / (at @ at)
    rest = windows - windows.mean(axis=1, keepdims=True) - slopes[:, None] * at
    return slopes, np.sqrt((rest**2).sum(axis=1) / (len(at) - 2) / (at @ at))


def rounded(rate: float) -> float:
    """Two digits: a range test knows no more."""
    return float(f"{rate:.1e}")


def rows(test: LrFinder, count: int, width: int) -> list[list[str]]:
    """At most so many lines of a table: rate, smoothed loss, and a bar of `width` signs that is
    empty at the lowest of these losses and full at the highest."""
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
    """Schedules of a learning-rate range test (arXiv:1506.01186): from `low` to `high` by the same
    factor at each step, whatever the phase's own schedule is.

    Args:
        low, high: rates at the first and at the last step, of the group with the highest rate.
        highest: that rate in the config; the other groups keep their ratio to it.
    """

    def make(phase: Phase, peak: float, steps: int, warmup: int) -> optax.Schedule:
        factor = (high / low) ** (1 / max(steps - 1, 1))
        return optax.exponential_decay(low * peak / highest, 1, factor)

    return make
