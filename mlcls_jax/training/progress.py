"""What the terminal shows while a phase trains: the epoch, times, the loss and the best metric."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlcls_jax.evaluation.best_metric import goodness
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.system.console import hms
from mlcls_jax.training.context import RunInputs


def epoch_text(step: int, plan: list[PlannedPhase], images: int, batch_size: int) -> str:
    """Returns the epochs of a step and those of the run, such as "6 of 18".

    Phases and evaluations end at whole steps, half a step beside their epoch at most; such an epoch
    is shown as a whole number.

    Args:
        step: the number of finished steps.
        plan: the phases of the run.
        images: the number of training images.
        batch_size: images per step, over all devices.

    >>> from mlcls_jax.config import Phase
    >>> from mlcls_jax.step.phases import plan_phases
    >>> plan = plan_phases([Phase("head", "3 epochs", [])], 105, batch_size=10, every="1 epoch")
    >>> [epoch_text(step, plan, 105, 10) for step in (*plan[0].evaluations, 16)]
    ['1 of 3', '2 of 3', '3 of 3', '1.52 of 3']
    """
    # Every phase before adds the rounding of its own length.
    phases = sum(phase_plan.start < step for phase_plan in plan)

    def text(step: int, roundings: int) -> str:
        epochs = step * batch_size / images
        whole = max(round(epochs), 1)
        beside = abs(epochs - whole) * images / batch_size
        return f"{whole}" if beside < 0.5 * roundings + 1e-6 else f"{epochs:.2f}"

    return f"{text(step, phases)} of {text(plan[-1].stop, len(plan))}"


def epoch_of(inputs: RunInputs, step: int) -> str:
    """Returns `epoch_text` for a step of a run."""
    return epoch_text(step, inputs.plan, len(inputs.splits["train"]), inputs.step.batch_size)


@dataclass
class PhaseProgress:
    """Describes how far a phase is, for the progress bar.

    Attributes:
        phase_plan: the phase.
        is_last: whether no phase follows.
        workdir: folder of the run.
        metric: that of `evaluation.best`.
        run_began: start of the run by time.perf_counter().
        first: the step from which this process trains the phase.
        began: when it began to, by time.perf_counter().
        best: text with the best value of the metric; None: the next `text` reads it.
    """

    phase_plan: PlannedPhase
    is_last: bool
    workdir: Path
    metric: str
    run_began: float
    first: int
    began: float = field(default_factory=time.perf_counter)
    best: str | None = None

    def evaluated(self) -> None:
        """Makes the next text read the best value again; without a terminal, none is read."""
        self.best = None

    def text(self, step: int, loss: Any) -> str:
        """Returns the loss, the best metric, and the time of the run so far and to come.

        Args:
            step: the number of finished steps of the run.
            loss: of the last finished call, on the devices; None before the first one.
        """
        if loss is None:
            return ""
        if self.best is None:
            self.best = self._best()
        now = time.perf_counter()
        left = (now - self.began) / (step - self.first) * (self.phase_plan.stop - step)
        # the steps of later phases were not timed yet
        phase = "" if self.is_last else " in this phase"
        return (
            f", loss {float(np.mean(loss)):.3f}{self.best}, {hms(now - self.run_began)}, "
            f"{hms(left)} left{phase}"
        )

    def _best(self) -> str:
        """The best value of the metric in the run so far, from metrics.jsonl."""
        records = [record for record in read_metrics(self.workdir) if record["val"]]
        values = [record["val"][self.metric] for record in records]
        if not values:
            return ""
        best = max(values, key=lambda value: goodness(self.metric, value))
        return f", best {self.metric} {best:.3f}"
