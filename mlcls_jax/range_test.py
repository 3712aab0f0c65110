"""A learning-rate range test: the loss while the rate grows, and the rate that it suggests.

Smith, arXiv:1506.01186; the smoothing that is shown and the end are those of fastai's `lr_find`.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter1d

MEMORY = 0.98  # of the moving average that smooths the losses
DIVERGED = 4.0  # times the lowest smoothed loss
WIDTH = 0.04  # of the smoothing for the suggestion, its standard deviation as a share of the steps
SKIPPED = 0.1  # share of the steps at the start whose slope is noise


@dataclass
class RangeTest:
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
        """The rate where the loss falls fastest over the logarithm of the rate, before its minimum;
        None where it falls by no more than noise does.

        Of a loss that is smoothed to both sides: the moving average would see the fall too late.
        """
        first, width = round(SKIPPED * self.steps), WIDTH * self.steps
        if len(self.losses) <= first + 1:
            return None
        losses = np.array(self.losses)
        smooth = gaussian_filter1d(losses, width, mode="nearest")
        last = first + int(np.argmin(smooth[first:]))
        # A Gaussian mean of independent losses has this share of their spread.
        share = 1 / math.sqrt(2 * math.sqrt(math.pi) * width)
        noise = share * (losses - smooth)[first : last + 1].std()
        if last == first or smooth[first] - smooth[last] <= 4 * noise:
            return None
        slopes = np.gradient(smooth, np.log(self.rates))[first : last + 1]
        return self.rates[first + int(np.argmin(slopes))]


def rounded(rate: float) -> float:
    """Two digits: a range test knows no more."""
    return float(f"{rate:.1e}")


def rows(test: RangeTest, count: int, width: int) -> list[list[str]]:
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
