"""What the stages of a run share: the inputs that it is computed from, and its services."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlcls_jax.config import Config
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.choice import THREADS, Choice
from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.data.loaders.own_batches import OwnBatches
from mlcls_jax.evaluation.base_rate import BaseRate, constant_scores
from mlcls_jax.evaluation.decision_rule import DecisionRule
from mlcls_jax.evaluation.inference import EvalSpec
from mlcls_jax.evaluation.metrics import Scores
from mlcls_jax.models.conventions import PretrainedConfig
from mlcls_jax.run.best_scores import BestEvaluation
from mlcls_jax.run.checkpoints import LAST_SAVE_SECONDS, Checkpoints
from mlcls_jax.run.loggers.logger import Logger
from mlcls_jax.run.metrics_log import MetricsLog
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.programs import StepSpec
from mlcls_jax.system import distributed
from mlcls_jax.system.early_signals import exit_code
from mlcls_jax.system.signals import SaveClock, Stop
from mlcls_jax.training.compile_ahead import CompileAhead
from mlcls_jax.training.pool import ImagePool
from mlcls_jax.training.timing import PhaseTimer

# Called with the validation mAP of an evaluation, and a function that returns the evaluation.
OnEvaluation = Callable[[float, Callable[[], BestEvaluation]], None]


# (labels int8 [image, class], each 1, 0 or UNKNOWN; probabilities float [image, class]) -> value.
Metric = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Ended:
    """How a training ended.

    Attributes:
        finished: whether no work is left.
        signal: number of the signal that asked it to stop; 0 for none.
    """

    finished: bool
    signal: int = 0

    @property
    def code(self) -> int:
        """Returns the exit code of the command."""
        return 0 if self.finished else exit_code(self.signal)


@dataclass(frozen=True)
class KeptRule:
    """What a run without validation images takes from other runs.

    Attributes:
        decision_rule: thresholds and temperatures.
        weights: RAW or EMA, the ones to use.
    """

    decision_rule: DecisionRule
    weights: str


@dataclass(frozen=True)
class Extensions:
    """Objects of the caller that a config cannot name.

    Attributes:
        loggers: see `MetricsLog`.
        metrics: further metrics of the validation images, by name.
        batches: training batches in place of those of the label table; None for those.
        variables: of a custom network, to start from; None for random ones.
        pool: images of all folds, for a run of one of them; None for another run.
        made: what earlier runs with the same images, weights and head have computed of them, for
            the runs of all folds; None for nothing.
        kept: of a run without validation images; None tunes thresholds on these.
        accept_changed_data: whether a run continues with other labels, splits or config.
    """

    loggers: Sequence[Logger] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    batches: OwnBatches | None = None
    variables: Any = None
    pool: ImagePool | None = None
    made: dict[Any, Any] | None = None
    kept: KeptRule | None = None
    accept_changed_data: bool = False


NO_EXTENSIONS = Extensions()


@dataclass(frozen=True)
class RunInputs:
    """Everything that a run is computed from; nothing here changes.

    Attributes:
        config: of the run.
        workdir: folder of the run.
        plan: phases with their first and last steps.
        splits: label tables by split: "train", "val" and perhaps "test".
        base_rate: class frequencies in train, and the classes that averages include.
        pretrained_config: convention and normalisation of the weights.
        mesh: of all devices.
        readers: of images, by split, and of the sample of training images under SAMPLE.
        sample: rows of the training images that each evaluation scores as well; see sample_rows.
        step: what all training steps share.
        evaluation: how images are batched and resized for evaluation.
        metrics: further metrics of the validation images; see Extensions.
        loader: of the images, and why it was chosen.
        pool, kept: see Extensions.
    """

    config: Config
    workdir: Path
    plan: list[PlannedPhase]
    splits: dict[str, LabelTable]
    base_rate: BaseRate
    pretrained_config: PretrainedConfig
    mesh: jax.sharding.Mesh
    readers: dict[str, Reader]
    sample: np.ndarray
    step: StepSpec
    evaluation: EvalSpec
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    loader: Choice = THREADS
    pool: ImagePool | None = None
    kept: KeptRule | None = None

    @cached_property
    def sampled(self) -> LabelTable:
        """Returns the training images that each evaluation scores as well."""
        return self.splits["train"].take(self.sample)

    @cached_property
    def constant(self) -> Scores:
        """Returns the scores of a constant predictor on the validation images, which must exist."""
        return constant_scores(self.splits["val"], self.base_rate)


@dataclass(frozen=True)
class Services:
    """What a run works with: files, compiled programs, signals and clocks.

    Attributes:
        compile_ahead: programs and first batches, made in threads.
        checkpoints: of the run.
        log: metrics.jsonl and the loggers.
        save_clock: says when a checkpoint between two evaluations is due.
        timer: where the seconds of the run go.
        stop: whether a stop was requested.
        on_evaluation: called after each evaluation.
        skipped_steps: steps since the start that train.on_nan="skip" left out.
    """

    compile_ahead: CompileAhead
    checkpoints: Checkpoints
    log: MetricsLog
    save_clock: SaveClock
    timer: PhaseTimer = field(default_factory=PhaseTimer)
    stop: Stop = field(default_factory=Stop)
    on_evaluation: OnEvaluation = lambda *_: None
    skipped_steps: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Waits for the last checkpoint, and closes the log."""
        self.checkpoints.close()
        self.log.close()

    @contextmanager
    def ended_on_errors(self) -> Iterator[None]:
        """Ends the last save and closes the log if the block fails, within a bounded time."""
        try:
            yield
        except Exception as error:
            self.checkpoints.end_save(0 if distributed.is_lost(error) else LAST_SAVE_SECONDS)
            self.log.abandon()
            raise


@dataclass(frozen=True)
class TrainContext:
    """The inputs of a run and its services, as the stages of training take them."""

    inputs: RunInputs
    services: Services
