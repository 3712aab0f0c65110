"""When a phase has stopped getting better (Prechelt 1998, "Early stopping - but when?")."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How a phase has gone so far; kept with each checkpoint, so that a resumed run knows it.

    best: highest validation mAP of the phase; None before the first.
    without: evaluations in a row since it.
    """

    best: float | None = None
    without: int = 0

    def after(self, val_map: float) -> "Patience":
        """With one more evaluation; one without an mAP (NaN) is no better than any."""
        if val_map > (float("-inf") if self.best is None else self.best):
            return Patience(val_map, 0)
        return Patience(self.best, self.without + 1)

    def is_over(self, most: int) -> bool:
        """Whether there were as many evaluations in a row as the phase waits for; 0: never."""
        return 0 < most <= self.without
