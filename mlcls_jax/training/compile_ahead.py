"""What a phase needs, made in threads while the main thread goes on: its compiled step, its first
batch, and once per run the compiled evaluation; for cached features, the pass instead of the batch.

XLA compiles, and images are decoded, without Python's lock, so they go on beside each other and
beside the reading of the weights.
"""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

import jax

from mlcls_jax.config import Config
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.batch import Batch, to_devices
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.threads import Reader, local_rows, train_batches
from mlcls_jax.models.conventions import PretrainedConfig
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.programs import (
    classify_program,
    feature_step_program,
    forward_program,
    step_program,
)
from mlcls_jax.system import threads
from mlcls_jax.system.devices import sharded
from mlcls_jax.system.signals import Stop


class CompileAhead:
    """Compiled programs and batches of a run; `start` and `read` begin them, the others wait."""

    def __init__(
        self,
        config: Config,
        splits: dict[str, LabelTable],
        variables: dict,
        mesh: jax.sharding.Mesh,
        sampled: int = 0,
    ):
        """Nothing is begun yet.

        Args:
            config: of the run.
            splits: of the run.
            variables: shapes of the network's, replicated over the mesh.
            mesh: of all devices.
            sampled: training images that are evaluated beside those of val.
        """
        self._evaluated = len(splits["val"]) + sampled
        self._config, self._variables, self._mesh = config, variables, mesh
        self._train = splits["train"]
        self._steps: dict[int, Future] = {}
        self._batches: dict[int, Future] = {}
        self._evaluation: Future | None = None
        self._head_inputs: Future | None = None
        self._classify: Future | None = None

    def start(self, phase_plan: PlannedPhase, pretrained_config: PretrainedConfig) -> None:
        """Begins to compile for a phase; does nothing if that has begun.

        Args:
            phase_plan: the phase.
            pretrained_config: of the weights.
        """
        if phase_plan.start in self._steps:
            return
        if phase_plan.phase.cached_views and self._head_inputs is None:
            self._head_inputs = threads.run(
                self._compile_forward, pretrained_config, 0
            )  # first: the longest
            self._classify = threads.run(self._compile_classify)
        step = threads.run(self._compile_step, phase_plan, pretrained_config)
        self._steps[phase_plan.start] = step
        if phase_plan.phase.cached_views:
            return  # no evaluation but of features
        if self._evaluation is None:
            self._evaluation = threads.run(self._compile_evaluation, pretrained_config, step)

    def read(self, phase_plan: PlannedPhase, first_step: int, reader: Reader) -> None:
        """Begins to read the images of a phase; does nothing if that has begun, or if it reads
        none but those of the pass for cached features.

        Args:
            phase_plan: the phase.
            first_step: whose batch is the first one needed.
            reader: of the training images.
        """
        if phase_plan.start not in self._batches and not phase_plan.phase.cached_views:
            first = threads.run(self._first_batch, phase_plan, first_step, reader)
            self._batches[phase_plan.start] = first

    def step(self, phase_plan: PlannedPhase, stop: Stop) -> tuple[Any, float, float]:
        """The step of the phase, which can never recompile; seconds of tracing and compiling.

        StoppedError where `stop` is set before it is compiled.
        """
        return threads.result(self._steps[phase_plan.start], stop)

    def batches(self, phase_plan: PlannedPhase) -> Iterator[Batch]:
        """Of the phase, on the devices; ValueError if an image of the first cannot be read."""
        return self._batches.pop(phase_plan.start).result()

    def predict(self, variables: dict, images: jax.Array) -> jax.Array:
        """Logits of images, see `make_eval_step`; a phase must have begun."""
        if self._evaluation is None:
            raise RuntimeError("predict before start")
        return self._evaluation.result()(variables, images)

    def head_inputs(self, stop: Stop, variables: dict, images: jax.Array) -> jax.Array:
        """What the head takes of images; a phase with cached views must have begun.

        StoppedError where `stop` is set before it is compiled.
        """
        if self._head_inputs is None:
            raise RuntimeError("head_inputs before start of a phase with cached views")
        return threads.result(self._head_inputs, stop)(variables, images)

    def classify(self, variables: dict, inputs: jax.Array) -> jax.Array:
        """Logits of the features that are evaluated; a phase with cached views must have begun."""
        if self._classify is None:
            raise RuntimeError("classify before start of a phase with cached views")
        return self._classify.result()(variables, inputs)

    def _compile_step(
        self, phase_plan: PlannedPhase, pretrained_config: PretrainedConfig
    ) -> tuple[Any, float, float]:
        began, classes = time.perf_counter(), len(self._train.classes)
        config, mesh = self._config, self._mesh
        more = self._variables, self._train.frequencies
        if phase_plan.phase.cached_views:
            size = len(self._train)
            program = feature_step_program(config, classes, phase_plan, size, mesh, *more)
        else:
            program = step_program(config, classes, pretrained_config, phase_plan, mesh, *more)
        lowered, traced = program.lower(), time.perf_counter()
        return lowered.compile(), traced - began, time.perf_counter() - traced

    def _compile_evaluation(self, pretrained_config: PretrainedConfig, step: Future) -> Any:
        wait([step])  # the run waits for that one first
        return self._compile_forward(pretrained_config, len(self._train.classes))

    def _compile_forward(self, pretrained_config: PretrainedConfig, classes: int) -> Any:
        rows = self._config.data.eval_batch_size
        program = forward_program(
            self._config, classes, pretrained_config, rows, self._mesh, self._variables
        )
        return program.lower().compile()

    def _compile_classify(self) -> Any:
        how = self._config, len(self._train.classes), self._evaluated
        program = classify_program(*how, self._mesh, self._variables)
        return program.lower().compile()

    def _first_batch(
        self, phase_plan: PlannedPhase, first_step: int, reader: Reader
    ) -> Iterator[Batch]:
        batches = batches_on_devices(
            self._config, self._train, self._mesh, first_step, phase_plan.stop, reader
        )
        return itertools.chain([next(batches)], batches)


def batches_on_devices(
    config: Config,
    train: LabelTable,
    mesh: jax.sharding.Mesh,
    first: int,
    last: int,
    reader: Reader,
) -> Iterator[Batch]:
    """The training batches of steps first to last - 1, on the devices ahead of time."""
    batches = train_batches(
        train,
        first_step=first,
        last_step=last,
        rows=local_rows(config.data.batch_size, "data.batch_size"),
        size=image_size(config),
        augment=config.augment,
        seed=config.seed,
        reader=reader,
    )
    return to_devices(batches, sharded(mesh))
