"""Prepares a phase in threads: its compiled step, its first batch and the compiled evaluation.

XLA compiles, and images are decoded, without Python's lock, so both run in parallel with each
other and with reading the weights.  For cached features, the pass over all images is compiled in
place of a batch.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import jax

from mlcls_jax.data.batch import Batch, to_devices
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import Reader, local_rows, train_batches
from mlcls_jax.data.loaders.own_batches import OwnBatches, checked_batches
from mlcls_jax.models.conventions import PretrainedConfig
from mlcls_jax.step.network import NetworkSpec
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.programs import (
    StepSpec,
    classify_program,
    feature_step_program,
    forward_program,
    step_program,
)
from mlcls_jax.system import threads
from mlcls_jax.system.devices import sharded
from mlcls_jax.system.signals import Stop


class CompileAhead:
    """Compiled programs and first batches of a run.

    `start` and `read` begin the work in threads; the other methods wait for it.
    """

    def __init__(
        self,
        spec: StepSpec,
        eval_batch_size: int,
        splits: dict[str, LabelTable],
        variables: dict,
        mesh: jax.sharding.Mesh,
        sampled: int = 0,
        batches: OwnBatches | None = None,
    ):
        """Starts nothing yet.

        Args:
            spec: what all training steps share.
            eval_batch_size: images per batch of an evaluation, over all devices.
            splits: of the run.
            variables: shapes of the network's variables, replicated over the mesh.
            mesh: of all devices.
            sampled: number of training images that each evaluation scores as well.
            batches: the user's training batches; None reads those of the training split.
        """
        self._own_batches = batches
        self._spec, self._eval_batch_size = spec, eval_batch_size
        self._evaluated = len(splits["val"]) + sampled
        self._variables, self._mesh, self._train = variables, mesh, splits["train"]
        self._steps: dict[int, Future] = {}
        self._batches: dict[int, Future] = {}
        self._evaluation: Future | None = None
        self._head_inputs: Future | None = None
        self._classify: Future | None = None

    def start(self, phase_plan: PlannedPhase, pretrained_config: PretrainedConfig) -> None:
        """Starts compiling for a phase; does nothing if that has started.

        Args:
            phase_plan: the phase.
            pretrained_config: of the weights.
        """
        if phase_plan.start in self._steps:
            return
        cached = bool(phase_plan.phase.cached_views)
        if cached and self._head_inputs is None:  # first: it takes longest
            headless = dataclasses.replace(self._spec.network, num_classes=0)
            self._head_inputs = threads.run(self._compile_forward, headless, pretrained_config)
            if self._evaluated:
                self._classify = threads.run(self._compile_classify)
        step = threads.run(self._compile_step, phase_plan, pretrained_config)
        self._steps[phase_plan.start] = step
        evaluates = not cached and self._evaluated > 0
        if evaluates and self._evaluation is None:  # cached features are evaluated by the head
            self._evaluation = threads.run(self._compile_evaluation, pretrained_config, step)

    def read(self, phase_plan: PlannedPhase, first_step: int, reader: Reader) -> None:
        """Starts reading the first batch of a phase; does nothing if that has started, or if the
        phase trains on cached features.

        Args:
            phase_plan: the phase.
            first_step: step whose batch is needed first.
            reader: of the training images.
        """
        if phase_plan.start not in self._batches and not phase_plan.phase.cached_views:
            first = threads.run(self._first_batch, phase_plan, first_step, reader)
            self._batches[phase_plan.start] = first

    def step(
        self, phase_plan: PlannedPhase, stop: Stop, tell: Callable[[], None] | None = None
    ) -> tuple[Any, float, float]:
        """Returns the compiled step of a phase, and the seconds of tracing and of compiling.

        The step can never compile again.  `tell` is called once if the wait is long.

        Raises:
            StoppedError: `stop` was set first.
        """
        return threads.result(self._steps[phase_plan.start], stop, tell)

    def batches(self, phase_plan: PlannedPhase) -> Iterator[Batch]:
        """Returns the batches of a phase, on the devices.

        Raises:
            ValueError: an image of the first batch cannot be read.
        """
        return self._batches.pop(phase_plan.start).result()

    def predict(self, variables: dict, images: jax.Array) -> jax.Array:
        """Returns the logits of images as `make_eval_step` does; call `start` first."""
        if self._evaluation is None:
            raise RuntimeError("predict before start")
        return self._evaluation.result()(variables, images)

    def head_inputs(self, stop: Stop, variables: dict, images: jax.Array) -> jax.Array:
        """Returns what the head takes of images; call `start` for a phase with cached views first.

        Raises:
            StoppedError: `stop` was set first.
        """
        if self._head_inputs is None:
            raise RuntimeError("head_inputs before start of a phase with cached views")
        return threads.result(self._head_inputs, stop)(variables, images)

    def classify(self, variables: dict, inputs: jax.Array) -> jax.Array:
        """Returns the logits of cached features; call `start` for such a phase first."""
        if self._classify is None:
            raise RuntimeError("classify before start of a phase with cached views")
        return self._classify.result()(variables, inputs)

    def _compile_step(
        self, phase_plan: PlannedPhase, pretrained_config: PretrainedConfig
    ) -> tuple[Any, float, float]:
        began, spec, variables = time.perf_counter(), self._spec, self._variables
        if phase_plan.phase.cached_views:
            images = len(self._train)
            program = feature_step_program(spec, phase_plan, images, self._mesh, variables)
        else:
            program = step_program(spec, pretrained_config, phase_plan, self._mesh, variables)
        lowered, traced = program.lower(), time.perf_counter()
        return lowered.compile(), traced - began, time.perf_counter() - traced

    def _compile_evaluation(self, pretrained_config: PretrainedConfig, step: Future) -> Any:
        wait([step])  # the run needs the step first
        return self._compile_forward(self._spec.network, pretrained_config)

    def _compile_forward(self, network: NetworkSpec, pretrained_config: PretrainedConfig) -> Any:
        program = forward_program(
            network, pretrained_config, self._eval_batch_size, self._mesh, self._variables
        )
        return program.lower().compile()

    def _compile_classify(self) -> Any:
        program = classify_program(
            self._spec.network, self._eval_batch_size, self._evaluated, self._mesh, self._variables
        )
        return program.lower().compile()

    def _first_batch(
        self, phase_plan: PlannedPhase, first_step: int, reader: Reader
    ) -> Iterator[Batch]:
        spec, stop = self._spec, phase_plan.stop
        if self._own_batches is None:
            batches = batches_on_devices(spec, self._train, self._mesh, first_step, stop, reader)
        else:
            rows, network = local_rows(spec.batch_size, "data.batch_size"), spec.network
            on_host = checked_batches(
                self._own_batches, first_step, stop, rows, network.image_shape, network.num_classes
            )
            batches = to_devices(on_host, sharded(self._mesh))
        return itertools.chain([next(batches)], batches)


def batches_on_devices(
    spec: StepSpec,
    train: LabelTable,
    mesh: jax.sharding.Mesh,
    first_step: int,
    last_step: int,
    reader: Reader,
) -> Iterator[Batch]:
    """Yields the training batches of steps first_step to last_step - 1, on the devices ahead of
    time."""
    batches = train_batches(
        train,
        first_step=first_step,
        last_step=last_step,
        rows=local_rows(spec.batch_size, "data.batch_size"),
        size=spec.network.image_size,
        augment=spec.augment,
        seed=spec.seed,
        reader=reader,
    )
    return to_devices(batches, sharded(mesh))
