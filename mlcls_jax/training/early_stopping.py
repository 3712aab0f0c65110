"""Early stopping: how a phase has gone, and whether it should end."""

import math
from dataclasses import dataclass
from typing import Any

from mlcls_jax.evaluation.best_metric import DEFAULT, goodness
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.system.console import console
from mlcls_jax.training.context import TrainContext


@dataclass(frozen=True)
class EarlyStopping:
    """Progress of a phase; saved with each checkpoint, so that a resumed run knows it.

    Prechelt 1998, "Early Stopping - But When?".

    Attributes:
        best: best value of `evaluation.best` in the phase; None before its first evaluation.
        without_gain: evaluations in a row that were no better.
    """

    best: float | None = None
    without_gain: int = 0

    def after(self, value: float, metric: str = DEFAULT) -> "EarlyStopping":
        """Returns the progress after one more evaluation; a value of NaN is no better than any.

        Args:
            value: of the metric, on the validation images.
            metric: that of `evaluation.best`.
        """
        best = math.nan if self.best is None else self.best
        if goodness(metric, value) > goodness(metric, best):
            return EarlyStopping(value, 0)
        return EarlyStopping(self.best, self.without_gain + 1)

    def is_over(self, patience: int) -> bool:
        """Returns whether `patience` evaluations in a row were no better; never if it is 0."""
        return 0 < patience <= self.without_gain


def read_early_stopping(metadata: dict[str, Any]) -> EarlyStopping:
    """Returns the progress of a phase at a checkpoint."""
    return EarlyStopping(**metadata.get("early_stopping", {}))


def early_stopping_at(context: TrainContext, phase_plan: PlannedPhase, step: int) -> EarlyStopping:
    """Returns the progress of a phase at its first step, or at the latest checkpoint."""
    checkpoints = context.services.checkpoints
    latest = checkpoints.latest()
    if latest is None or step == phase_plan.start:
        return EarlyStopping()
    return read_early_stopping(checkpoints.metadata(latest))


def print_ended_early(
    phase_plan: PlannedPhase, early_stopping: EarlyStopping, step: int, metric: str
) -> None:
    """Prints that a phase ended early, after the evaluation of a step."""
    best = math.nan if early_stopping.best is None else early_stopping.best
    console.print(
        f"{phase_plan.phase.name}: ended after {step - phase_plan.start} of "
        f"{phase_plan.stop - phase_plan.start} steps, because {early_stopping.without_gain} "
        f"evaluations in a row were no better than val {metric} {best:.4f}"
    )
