"""What the stages of a run share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from mlcls_jax.config import Config
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.threads import Reader
from mlcls_jax.evaluation.base_rate import BaseRate, constant_scores
from mlcls_jax.evaluation.metrics import Scores
from mlcls_jax.models.conventions import PretrainedConfig
from mlcls_jax.run.best_scores import BestEvaluation
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.run.metrics_log import MetricsLog
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.system.signals import SaveClock, Stop
from mlcls_jax.training.compile_ahead import CompileAhead
from mlcls_jax.training.timing import PhaseTimer


@dataclass(frozen=True)
class TrainContext:
    """What stays the same over a run."""

    config: Config
    workdir: Path
    plan: list[PlannedPhase]
    splits: dict[str, LabelTable]
    base: BaseRate
    pretrained_config: PretrainedConfig  # lineage and normalisation of the weights
    mesh: jax.sharding.Mesh
    readers: dict[str, Reader]  # of splits, and of the sample under SAMPLE
    compile_ahead: CompileAhead
    checkpoints: Checkpoints
    log: MetricsLog
    sample: np.ndarray  # rows of the training images that are scored as well, see sample_rows
    timer: PhaseTimer = field(default_factory=PhaseTimer)
    stop: Stop = field(default_factory=Stop)
    # Called with the mAP of an evaluation and a function that makes what is kept of it.
    on_evaluation: Callable[[float, Callable[[], BestEvaluation]], None] = lambda *_: None
    skipped: list[int] = field(default_factory=list)  # steps since the start, see train.on_nan

    @cached_property
    def sampled(self) -> LabelTable:
        """The training images that are scored as well."""
        return self.splits["train"].take(self.sample)

    @cached_property
    def constant(self) -> Scores:
        """Of the base rate on the validation images."""
        return constant_scores(self.splits["val"], self.base)

    @cached_property
    def clock(self) -> SaveClock:
        """Of the saves by time; it starts when it is first looked at."""
        return SaveClock(self.config.checkpoint.every_minutes)
